// Theme and density: cookies, so that the server renders the right one and nothing flashes.
import { toast } from "./toast.js";

const root = document.documentElement;

function remember(name, value) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = value ? `${name}=${value}; Path=/; Max-Age=31536000; SameSite=Lax${secure}` : `${name}=; Path=/; Max-Age=0; SameSite=Lax${secure}`;
}

// With the person too, so that another browser draws the same.
async function keep() {
  const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf-token]")?.content ?? "" };
  const body = new URLSearchParams({ theme: root.dataset.theme ?? "", density: root.dataset.density ?? "" });
  const answer = await fetch("/accounts/looks/", { method: "POST", headers, body, keepalive: true }).catch(() => null);
  if (!answer?.ok) toast("error", "Your choice could not be kept: it holds on this page only.");
}

function show() {
  for (const button of document.querySelectorAll("[data-theme-choice]"))
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === (root.dataset.theme ?? "")));
  for (const button of document.querySelectorAll("[data-density-choice]"))
    button.setAttribute("aria-pressed", String(button.dataset.densityChoice === (root.dataset.density ?? "")));
}

document.addEventListener("click", (event) => {
  const theme = event.target.closest("[data-theme-choice]");
  const density = event.target.closest("[data-density-choice]");
  if (theme) {
    if (theme.dataset.themeChoice) root.dataset.theme = theme.dataset.themeChoice;
    else delete root.dataset.theme;
    remember("keystead-theme", theme.dataset.themeChoice);
  }
  if (density) {
    if (density.dataset.densityChoice) root.dataset.density = density.dataset.densityChoice;
    else delete root.dataset.density;
    remember("keystead-density", density.dataset.densityChoice);
  }
  if (theme || density) {
    show();
    keep();
  }
});
show();

// Exact times in the reader's own zone unless the profile names one (data-zone on html); the server wrote UTC.
export function tellTimes(within) {
  const zone = root.dataset.zone || undefined;
  for (const time of within.querySelectorAll("time[datetime]:not([data-told])")) {
    time.dataset.told = "";
    try {
      const words = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long", timeZone: zone });
      time.title = words;
    } catch { /* an unknown zone: the server's title stays */ }
  }
}
tellTimes(document);
document.addEventListener("htmx:afterSwap", (event) => tellTimes(event.detail.target.parentNode ?? document));
