// Menus are <details class="menu">: Escape and a click elsewhere close them, arrows walk them. The drawer under 900 px.
const openMenus = () => document.querySelectorAll("details.menu[open]");

document.addEventListener("click", (event) => {
  for (const menu of openMenus()) {
    const inside = menu.contains(event.target);
    if (!inside || event.target.closest(".sheet a, .sheet button:not([data-stay])")) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  const menu = event.target.closest?.("details.menu[open]");
  if (event.key === "Escape") {
    for (const other of openMenus()) {
      other.open = false;
      if (other === menu) other.querySelector("summary").focus();
    }
    setDrawer(false);
  }
  if (!menu || !["ArrowDown", "ArrowUp"].includes(event.key) || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const items = [...menu.querySelectorAll(".sheet a, .sheet button:not(:disabled), .sheet input")].filter((item) => item.offsetParent);
  if (!items.length) return;
  event.preventDefault();
  const step = event.key === "ArrowDown" ? 1 : -1;
  const at = items.indexOf(document.activeElement);
  items[(at + step + items.length) % items.length].focus();
});

const opener = document.querySelector(".drawer-open");
function setDrawer(shown) {
  if (!opener) return;
  const was = document.body.classList.contains("drawer-shown");
  if (was === shown) return;
  document.body.classList.toggle("drawer-shown", shown);
  opener.setAttribute("aria-expanded", String(shown));
  if (shown) document.querySelector(".side a, .side summary")?.focus();
  else opener.focus();
}
opener?.addEventListener("click", () => setDrawer(!document.body.classList.contains("drawer-shown")));
document.querySelector(".drawer-veil")?.addEventListener("click", () => setDrawer(false));
