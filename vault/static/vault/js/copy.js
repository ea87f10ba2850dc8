// Copy buttons (data-copy="text" or data-copy-from="#id"), secrets that are masked until asked for, JSON downloads.
import { toast } from "./toast.js";

async function put(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // plain HTTP has no clipboard API
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

document.addEventListener("click", async (event) => {
  const copier = event.target.closest("[data-copy], [data-copy-from]");
  if (copier) {
    event.preventDefault();
    event.stopPropagation();
    const source = copier.dataset.copyFrom ? document.querySelector(copier.dataset.copyFrom) : null;
    const text = copier.dataset.copy ?? source?.dataset.secret ?? source?.textContent.trim() ?? "";
    const done = await put(text);
    const live = document.getElementById("live");
    if (!done) toast("warning", "The browser did not let Keystead copy.", "Mark the text and copy it yourself.");
    else {
      copier.classList.add("done");
      if (live) live.textContent = "Copied";
      const label = copier.querySelector(".label");
      const words = label?.textContent;
      if (label) label.textContent = "Copied";
      setTimeout(() => { copier.classList.remove("done"); if (label) label.textContent = words; if (live) live.textContent = ""; }, 1600);
    }
  }
  const revealer = event.target.closest("[data-reveal]");
  if (revealer) {
    const target = document.querySelector(revealer.dataset.reveal);
    const shown = revealer.getAttribute("aria-pressed") === "true";
    revealer.setAttribute("aria-pressed", String(!shown));
    if (target.matches("input")) target.type = shown ? "password" : "text";
    else target.textContent = shown ? "•".repeat(16) : target.dataset.secret;
  }
  const saver = event.target.closest("[data-download]");
  if (saver) {
    const blob = new Blob([saver.dataset.download], { type: "application/json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = saver.dataset.filename ?? "keystead.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const stored = event.target.closest("[data-stored]");
  if (stored) {
    const secret = stored.closest(".secret");
    for (const value of secret.querySelectorAll("[data-secret]")) { value.removeAttribute("data-secret"); value.textContent = "•".repeat(16); }
    for (const button of secret.querySelectorAll("[data-download]")) button.removeAttribute("data-download");
    const then = stored.dataset.stored;
    if (then) location.replace(then); // not kept in the history: Back does not bring the secret again
    else secret.remove();
  }
});
