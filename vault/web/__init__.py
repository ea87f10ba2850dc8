"""Pages: how to make one. The worked example is vault/web/vaults.py with templates/vault/vaults/; every part stands on /styleguide/.

Views are functions in <room>/web/<subject>.py, listed in <room>/web/urls.py, with templates in templates/<room>/<subject>/. They
are thin: ask the actor, call the service that REST calls, render. docs/decisions/0008-web-pages.md says why it is so.

Addresses: /v/<uuid:vault_id>/... for a vault, /appliance/... for the installation. The URL names that the frame links to:
overview, cloud-keys, cloud-key (key_id), key-sets, key-set (key_set_id), csp-accounts, csp-account (account_id), xks-stores,
xks-store (store_id), operations, operation (operation_id), audit, people, settings; vaults, nodes, certificates, system. A page
appears in the side bar as soon as its URL name exists (vault/web/navigation.py). Higher rooms' pages are reversed by name only.

A view
    @vault_page(Permission.KEY_SETS_VIEW)            # or appliance_page(permission), person_page
    def key_set_list(request, vault):                # request.actor, request.vault; foreign vaults are 404 already
Raise or let pass domain errors: the frame answers 403, 404, 409, 503 pages, or a toast for htmx.

A list page
    found = read_list(request, rows, LISTING, COLUMNS, id="key-sets", row_template="cloudkeys/key_sets/row.html",
                      menus=(FilterMenu(...),), empty_title=..., empty_words=..., empty_url=..., empty_button=...)
    return list_page(request, "cloudkeys/key_sets/list.html", found, {"help": HELP})
`rows` is actor.visible(Model).filter(vault=vault); LISTING is the API's own, so filters, order and paging are the same. The row
template draws one <tr class="goes"> with <a class="main-link"> in it and asks `{% if "name" in list.shown %}` for each column.
More keyword arguments land in list.extra: bulk_template, tools_template, filters_template, empty_template, whatever the row needs.
selectable=True gives check boxes (the row draws <td class="pick"><input type="checkbox" name="pick" value=id form="bulk"
aria-label="Select ...">) and a bar with bulk_template: <button form="bulk" formaction="...">. It posts pick=..., or all_found=1
with `query`, the filter's query string. Columns come from the address, then the session. Chips and the pager come by themselves.

A detail page extends page.html: blocks name (title), crumbs (<li><a>), crumb (this page), heading, state (pills), lead, actions,
tabs ({% include "parts/tabs.html" %} with tabs=[(label, url, current)]), content. `help` in the context makes the help panel:
{"title", "words": (...), "links": ((label, doc page),)}; documentation is served at /docs/<page>/.
One primary action; others in <details class="menu"><summary class="button"><div class="sheet">.
    {% load keystead %} {% action url _("Disable key") icon="circle-pause" can=can_disable style="danger" dialog=True %}
can(actor, Permission.X, row) -> Can: false carries the reason, and the button is drawn disabled with it. Leave an action out when
it makes no sense in that state.

A form
    class KeySetForm(PageForm): ...                  # hidden once and revision are in it; units = {"days": "days"}
    form = KeySetForm(request.POST or None, initial={"name": row.name, "revision": row.revision})
    if request.method == "POST":
        made = submit(request, form, lambda values: service(request.actor, expected_revision=form.expected, **values), target=row)
        if made is not None:                         # None: errors are on the form
            return done(request, url, gettext("Saved."))
    return page(request, template, {"form": form}, status=form.status)
    <form method="post" class="form" id="key-set-form"{% if form.is_bound %} data-bound{% endif %}>{% csrf_token %}
      {% include "parts/fields.html" %} or {% form_problems form %}{% field form.name unit="days" %}...
submit() puts ValidationFailed on the fields, shows Conflict and NeedsApproval above, explains StaleRevision with a diff, and runs once a
token (double click, reload, Back). A form with an `id` keeps its draft when the session has ended; secrets never (data-secret,
password fields, data-no-draft). A service that answers None: return something true from the lambda.
A secret shown once is rendered by the POST's own answer: once.remember(request, url), then page(...) with parts/secret.html.

A dialog: a page whose view returns confirm(request, ConfirmForm(request.POST or None, reason="required", typed=row.name), title=...,
words=..., consequences=[(icon, sentence)], button="Disable key", cancel=back, danger=True). Linked with {% action ... dialog=True %}
(or <a data-dialog>) it opens in the dialog; without scripts it is a page. Own content: template="..." extending parts/confirm.html,
block `more`. Any view can do so: page(request, full, ctx, part=("dialog", "the/part.html")).

A live part: <div id="steps" data-live hx-get="{% url ... %}" hx-trigger="every 2s" hx-swap="outerHTML">, answered by
partial(request, template, ctx). Drop the hx- attributes when there is nothing more to wait for. static/vault/js/live.js leaves out a
swap when nothing changed or somebody is at work in the part, and keeps focus and scroll. parts/progress.html is one.

Tags: {% icon "name" %} (lucide.dev names), {% pill "cloud_key" state %} (vault/web/states.py; unknown states show by name),
{% when at none="never" %}, {% exact at %}, {% copy value "Copy ARN" keep=12 %}, {% health "ok" "words" %}, {% simulated %},
{% vault_url "key-set" vault key_set_id=x %}; filters number, short_number, bytes_size, duration, as_json.
Parts: callout, confirmation, copy_as, diff, progress, secret, stepper, timeline, tabs, picker with options, chart (through
vault/web/charts.py: bars, lines, calendar, sparkline).

htmx: links are not boosted; every page is a whole page with an address, Back works by itself. Never style=, on...=, <script> or
hx-on: the policy refuses them. CSRF goes by header from <meta>. 422, 409 and 412 answers of forms are swapped when HX-Form is set.

The command palette: add to <room>/web/palette.py; xks/web/palette.py asks them all.

Words: every text that a person sees goes through gettext (docs/decisions/0010-translation.md; tests/test_translation.py looks for what
does not). Templates: {% translate "Save" %}, {% blocktranslate with name=row.name %}...{{ name }}...{% endblocktranslate %}, counts
by `count`, and _("...") as an argument of our tags. Python: gettext("%(name)s is made.") % {...} in views, gettext_lazy in forms,
gettext_noop in tables of a module.

A test: as tests/vault/web/test_vaults.py does, with tests.web.Browser:
    browser = Browser(cast, "owner"); browser.get(url, target="list"); browser.send(url, name="x")   # with the form's hidden fields
Each view is tried by every one of the cast. In the browser: tests/browser/conftest.py, fixture `signed_in_page(who)`,
`assert_accessible(page)`; console errors, CSP violations and requests to other hosts fail a test by themselves.
"""
