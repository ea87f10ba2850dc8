// Picker with search: a field that asks the server for options; what is picked becomes chips with hidden inputs of the same name.
import { walk } from "./listbox.js";

function arm(picker) {
  if (picker.dataset.armed !== undefined) return;
  picker.dataset.armed = "";
  const field = picker.querySelector("[data-picker-search]");
  const list = picker.querySelector("[role=listbox]");
  const picked = picker.querySelector(".picked");
  const name = picker.dataset.picker;
  const close = () => { list.hidden = true; field.setAttribute("aria-expanded", "false"); };
  const choose = (option) => {
    const value = option.dataset.value;
    if (![...picked.querySelectorAll("input")].some((input) => input.value === value)) {
      if (!picker.hasAttribute("data-many")) picked.replaceChildren();
      const chip = document.createElement("span");
      chip.className = "chip";
      const input = document.createElement("input");
      Object.assign(input, { type: "hidden", name, value });
      const words = document.createElement("span");
      words.textContent = option.dataset.label ?? value;
      const remove = document.createElement("button");
      Object.assign(remove, { type: "button", className: "button tool", textContent: "×" });
      remove.dataset.unpick = "";
      remove.setAttribute("aria-label", `Remove ${words.textContent}`);
      chip.append(input, words, remove);
      picked.append(chip);
    }
    field.value = "";
    close();
    field.focus();
    picker.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const keys = walk(field, list, choose);
  list.addEventListener("htmx:afterSwap", () => { list.hidden = false; field.setAttribute("aria-expanded", "true"); keys.first(); });
  field.addEventListener("keydown", (event) => { if (event.key === "Escape" && !list.hidden) { event.stopPropagation(); event.preventDefault(); close(); } });
  picker.addEventListener("focusout", (event) => { if (!picker.contains(event.relatedTarget)) close(); });
}
document.addEventListener("click", (event) => {
  const unpick = event.target.closest("[data-unpick]");
  if (!unpick) return;
  const picker = unpick.closest("[data-picker]");
  unpick.closest(".chip").remove();
  picker?.querySelector("[data-picker-search]")?.focus();
  picker?.dispatchEvent(new Event("change", { bubbles: true }));
});
document.querySelectorAll("[data-picker]").forEach(arm);
document.addEventListener("htmx:load", (event) => { if (event.detail.elt.matches?.("[data-picker]")) arm(event.detail.elt); event.detail.elt.querySelectorAll?.("[data-picker]").forEach(arm); });
