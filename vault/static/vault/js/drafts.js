// What was typed survives an expired session: a form's text is kept in sessionStorage when it is sent and put back when the same
// page opens again with an empty form. Passwords, secrets, files and hidden fields are never kept.
import { toast } from "./toast.js";

const KEY = "keystead-draft";
const kept = "input:not([type=password], [type=hidden], [type=file], [data-secret], [name=csrfmiddlewaretoken]), textarea:not([data-secret]), select";

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || !form.id || form.hasAttribute("data-no-draft") || form.closest("dialog")) return;
  const values = [...form.querySelectorAll(kept)].filter((field) => field.name)
    .map((field) => [field.name, field.type === "checkbox" || field.type === "radio" ? field.value : null, "checked" in field && ["checkbox", "radio"].includes(field.type) ? field.checked : field.value]);
  sessionStorage.setItem(KEY, JSON.stringify({ path: location.pathname, form: form.id, values }));
});

const raw = sessionStorage.getItem(KEY);
if (raw && !document.body.hasAttribute("data-entrance")) {
  sessionStorage.removeItem(KEY);
  const draft = JSON.parse(raw);
  const form = draft.path === location.pathname ? document.getElementById(draft.form) : null;
  if (form && !form.hasAttribute("data-bound") && new URLSearchParams(location.search).has("restore")) {
    for (const [name, value, content] of draft.values) {
      for (const field of form.querySelectorAll(`[name="${CSS.escape(name)}"]`)) {
        if (value === null) field.value = content;
        else if (field.value === value) field.checked = content;
      }
    }
    history.replaceState(null, "", location.pathname);
    toast("info", "What you had typed is back.", "Your session had ended before it was saved. Look it over and send it again.");
  }
}
