// Toasts: django's messages on a page, HX-Trigger {"toast": {"level", "text", "cure"}} on a partial, and what goes wrong on the way.
const box = document.getElementById("toasts");
const SECONDS = 6;

export function toast(level, text, cure = "") {
  if (!box) return;
  const item = document.createElement("div");
  item.className = `toast ${level}`;
  const body = document.createElement("div");
  body.className = "body";
  body.textContent = text;
  if (cure) {
    const more = document.createElement("div");
    more.className = "soft";
    more.textContent = cure;
    body.append(more);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.className = "button tool";
  close.setAttribute("aria-label", "Dismiss");
  close.dataset.dismiss = "";
  close.textContent = "×";
  item.append(body, close);
  box.append(item);
  arm(item);
}

function arm(item) {
  if (item.classList.contains("error") || item.classList.contains("warning")) return; // these stay until dismissed
  let timer;
  const start = () => { timer = setTimeout(() => item.remove(), SECONDS * 1000); };
  item.addEventListener("pointerenter", () => clearTimeout(timer));
  item.addEventListener("pointerleave", start);
  item.addEventListener("focusin", () => clearTimeout(timer));
  start();
}

// A passkey that was not given (django-allauth's scripts tell it by this event): said where one looks, and not only to the console.
document.addEventListener("allauth.error", (event) => {
  const words = "The passkey was not used: nothing was chosen in time, or the browser refused.", cure = "Try again, or take another way.";
  const card = document.querySelector(".card");
  if (box) toast("error", words, cure);
  else if (card) {
    card.querySelector("[data-passkey-refused]")?.remove();
    const note = document.createElement("div");
    note.className = "callout danger";
    note.setAttribute("role", "alert");
    note.dataset.passkeyRefused = "";
    note.textContent = `${words} ${cure}`;
    card.querySelector("h1")?.after(note);
  } else return;
  event.preventDefault();
});
if (box) for (const item of box.children) arm(item);
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-dismiss]")) event.target.closest(".toast, .callout")?.remove();
});
document.addEventListener("toast", (event) => toast(event.detail.level ?? "info", event.detail.text ?? "", event.detail.cure ?? ""));

let lost = false; // a poll every 2 s must not pile up a toast for each failure
document.addEventListener("htmx:sendError", () => {
  if (!lost) toast("error", "Keystead does not answer.", "Check the network; this page goes on trying.");
  lost = true;
});
document.addEventListener("htmx:timeout", () => toast("warning", "Keystead took too long to answer.", "Look whether it has happened before you repeat it."));
document.addEventListener("htmx:afterRequest", (event) => {
  if (!event.detail.successful) return;
  if (lost) toast("success", "Keystead answers again.");
  lost = false;
});
document.addEventListener("htmx:responseError", (event) => {
  const answer = event.detail.xhr;
  if (answer.status === 401) { document.getElementById("signed-out")?.showModal(); return; }
  if (!answer.getResponseHeader("HX-Trigger") && !event.detail.requestConfig.elt.closest("[data-live]")) toast("error", `Keystead refused (${answer.status}).`, "Reload the page and try again.");
});
// 409, 412 and 422 answers are forms again, with what is wrong: show them where the form was.
document.addEventListener("htmx:beforeSwap", (event) => {
  if ([409, 412, 422].includes(event.detail.xhr.status) && event.detail.xhr.getResponseHeader("HX-Form")) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});
document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRFToken"] = document.querySelector("meta[name=csrf-token]")?.content ?? "";
});
