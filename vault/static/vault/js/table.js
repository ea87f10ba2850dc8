// Lists: a row is one link wide, Shift-click picks a range, the bulk bar counts; filter menus send themselves.
let lastPick = null;

function count(list) {
  const bar = list.querySelector(".bulk");
  if (!bar) return;
  const picks = [...list.querySelectorAll("input[name=pick]")];
  const number = picks.filter((pick) => pick.checked).length;
  bar.hidden = number === 0;
  const words = bar.querySelector("[data-picked]");
  if (words) words.textContent = `${number} selected`;
  for (const all of list.querySelectorAll("[data-pick-all]")) { all.checked = number > 0 && number === picks.length; all.indeterminate = number > 0 && number < picks.length; }
  const every = bar.querySelector("[data-every]");
  if (every) every.hidden = number !== picks.length;
}

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr.goes");
  if (row && !event.target.closest("a, button, input, label, summary, details, .copy") && window.getSelection()?.isCollapsed !== false) {
    const link = row.querySelector("a.main-link");
    if (link) event.ctrlKey || event.metaKey ? window.open(link.href) : link.click();
  }
  const pick = event.target.closest("input[name=pick]");
  if (pick) {
    const list = pick.closest(".list");
    const picks = [...list.querySelectorAll("input[name=pick]")];
    if (event.shiftKey && lastPick && picks.includes(lastPick)) {
      const [from, to] = [picks.indexOf(lastPick), picks.indexOf(pick)].sort((a, b) => a - b);
      for (let at = from; at <= to; at += 1) picks[at].checked = pick.checked;
    }
    lastPick = pick;
    count(list);
  }
  const all = event.target.closest("[data-pick-all]");
  if (all) {
    for (const each of all.closest(".list").querySelectorAll("input[name=pick]")) each.checked = all.checked;
    count(all.closest(".list"));
  }
  const none = event.target.closest("[data-pick-none]");
  if (none) {
    for (const each of none.closest(".list").querySelectorAll("input[name=pick]")) each.checked = false;
    count(none.closest(".list"));
  }
});
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-auto]");
  if (form && !event.target.closest("[data-wait]")) form.requestSubmit();
});
addEventListener("pageshow", () => document.querySelectorAll(".list").forEach(count));
// Empty fields do not belong in the address.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "get") return;
  const empty = [...form.elements].filter((field) => field.name && field.value === "" && !field.disabled);
  for (const field of empty) field.disabled = true;
  setTimeout(() => { for (const field of empty) field.disabled = false; });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select, [contenteditable]") && !event.ctrlKey && !event.metaKey) {
    const search = document.querySelector(".filters input[type=search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  }
});
