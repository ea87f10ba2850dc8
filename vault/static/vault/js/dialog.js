// <a data-dialog href="/…/disable/"> loads that page's form into the one #dialog; without scripts it is a page of its own.
const dialog = document.getElementById("dialog");

document.addEventListener("click", (event) => {
  const opener = event.target.closest("a[data-dialog]");
  if (opener && dialog && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    dialog.replaceChildren();
    dialog.returnTo = opener.closest("details.menu")?.querySelector("summary") ?? opener;
    window.htmx.ajax("GET", opener.href, { target: dialog, swap: "innerHTML" });
    return;
  }
  const closer = event.target.closest("[data-close]");
  if (closer?.closest("dialog")) {
    event.preventDefault();
    closer.closest("dialog").close();
  }
  if (event.target instanceof HTMLDialogElement && event.target.open && !event.target.hasAttribute("data-firm")) {
    const box = event.target.getBoundingClientRect();
    const outside = event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
    if (outside && !event.target.querySelector("form")) event.target.close();
  }
});
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target !== dialog) return;
  const title = dialog.querySelector("h1, h2");
  if (title) {
    title.id ||= "dialog-title";
    dialog.setAttribute("aria-labelledby", title.id);
  }
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector("[aria-invalid=true], [autofocus]") ?? dialog.querySelector("input:not([type=hidden]), textarea, select") ?? dialog.querySelector("button"))?.focus();
  checkTyped();
});
dialog?.addEventListener("close", () => { dialog.returnTo?.focus(); dialog.replaceChildren(); });

// A form with data-typed="name" lets its button go only when that name stands in the field [data-typed-field].
function checkTyped() {
  for (const form of document.querySelectorAll("form[data-typed]")) {
    const field = form.querySelector("[data-typed-field]");
    const button = form.querySelector("[data-typed-button]");
    if (field && button) button.disabled = field.value.trim() !== form.dataset.typed;
  }
}
document.addEventListener("input", checkTyped);
checkTyped();

// A form is sent once: the second click of a double click finds it being sent. The server holds a one-time token besides.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.hasAttribute("hx-post")) return;
  if (form.classList.contains("is-sending")) { event.preventDefault(); return; }
  form.classList.add("is-sending");
});
addEventListener("pageshow", () => document.querySelectorAll("form.is-sending").forEach((form) => form.classList.remove("is-sending")));
