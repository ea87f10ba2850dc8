// Parts that refresh themselves: <div id="…" data-live hx-get hx-trigger="every 2s" hx-swap="outerHTML">. A swap is left out when
// nothing changed, when somebody is in a menu, field or selection in the part, and while the tab is hidden, so that focus and scroll stay.
const seen = new WeakMap();

document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.detail.elt;
  if (!part.matches?.("[data-live]")) return;
  const busy = part.querySelector("details.menu[open], input:focus:not([type=checkbox]), textarea:focus, select:focus, input[name=pick]:checked") || !window.getSelection()?.isCollapsed && part.contains(window.getSelection().anchorNode);
  if (document.hidden || busy) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.elt ?? event.detail.target;
  if (!part.matches?.("[data-live]") || !event.detail.shouldSwap) return;
  const text = event.detail.xhr.responseText;
  if (text === (seen.get(part) ?? part.dataset.was)) { event.detail.shouldSwap = false; return; }
  last = { id: part.id, text };
  const focus = document.activeElement;
  if (part.contains(focus)) last.focus = focus.id ? `#${CSS.escape(focus.id)}` : focus.getAttribute("href") ? `a[href="${CSS.escape(focus.getAttribute("href"))}"]` : null;
});
let last = null;
document.addEventListener("htmx:afterSwap", () => {
  if (!last) return;
  const part = document.getElementById(last.id);
  if (part) {
    seen.set(part, last.text);
    if (last.focus) part.querySelector(last.focus)?.focus({ preventScroll: true });
  }
  last = null;
});
