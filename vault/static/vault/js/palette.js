// Ctrl-K: go to anything. The server searches (name="palette"); here are only keys and focus.
import { walk } from "./listbox.js";

const palette = document.getElementById("palette");
if (palette) {
  const field = palette.querySelector("input");
  const list = palette.querySelector("[role=listbox]");
  const keys = walk(field, list, (option) => option.click());
  const open = () => {
    if (palette.open) return;
    palette.showModal();
    field.value = "";
    field.focus();
    window.htmx.trigger(field, "look");
  };
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); palette.open ? palette.close() : open(); }
  });
  document.addEventListener("click", (event) => { if (event.target.closest("[data-palette]")) open(); });
  list.addEventListener("click", (event) => { if (event.target.closest("[data-dialog]")) palette.close(); });
  list.addEventListener("htmx:afterSwap", () => keys.first());
}
