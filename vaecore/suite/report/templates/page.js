"use strict";
// The page is whole without this: it adds search, folding at once, and figures beside the claims.
const claims = [...document.querySelectorAll("details.claim")];
const texts = new Map(claims.map((claim) => {
  // Not of the claims beside it, which are found by themselves.
  const parts = [...claim.querySelectorAll("summary, .message, .columns, .threats")];
  return [claim, parts.map((part) => part.textContent).join(" ").toLowerCase()];
}));
const [search, verdict, kind, count] = ["search", "verdict", "kind", "count"].map((id) => document.getElementById(id));

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const claim of claims) {
    const fits = (!verdict.value || claim.dataset.verdict === verdict.value)
      && (!kind.value || claim.dataset.kind === kind.value)
      && words.every((word) => texts.get(claim).includes(word));
    claim.hidden = !fits;
    shown += fits;
  }
  for (const family of document.querySelectorAll("section.family")) {
    const members = [...family.querySelectorAll("details.claim")];
    family.hidden = members.length > 0 && members.every((claim) => claim.hidden);
  }
  const all = `${claims.length} claim${claims.length === 1 ? "" : "s"}`;
  count.textContent = shown === claims.length ? all : `${shown} of ${all}`;
  document.getElementById("nothing").hidden = shown > 0 || claims.length === 0;
}

function reset() {
  search.value = verdict.value = kind.value = "";
  filter();
}

function fold(open) {
  for (const claim of claims) {
    if (!claim.hidden) claim.open = open;
  }
}

function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.matches("details.claim")) return;
  if (target.hidden) reset();
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus({preventScroll: true});
}

function showHere(event) {
  const place = event.target;
  if (!place.open || place.querySelector("img")) return;
  const figure = document.getElementById(place.dataset.figure).querySelector("img");
  const image = figure.cloneNode();
  place.querySelector("summary").after(image);
}

// A box that is cut on its right fades there, until it has been scrolled to its end.
function showClipped(box) {
  box.classList.toggle("clipped", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
}

const watch = new ResizeObserver((boxes) => boxes.forEach((box) => showClipped(box.target)));
for (const box of document.querySelectorAll(".scroll, nav ul, pre")) {
  box.addEventListener("scroll", () => showClipped(box), {passive: true});
  watch.observe(box);
}

document.querySelector(".tools").hidden = false;
document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
for (const control of [search, verdict, kind]) control.addEventListener("input", filter);
document.getElementById("unfold").addEventListener("click", () => fold(true));
document.getElementById("fold").addEventListener("click", () => fold(false));
document.getElementById("reset").addEventListener("click", () => { reset(); search.focus(); });
for (const place of document.querySelectorAll("details.here")) place.addEventListener("toggle", showHere);
addEventListener("hashchange", follow);
follow();
