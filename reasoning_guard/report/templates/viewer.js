// Shows one problem at a time, sorted by what it lost. Texts are already in the page; this only hides and shows them.
"use strict";
(() => {
  const viewers = [...document.querySelectorAll(".viewer")];
  const runButtons = [...document.querySelectorAll("button[data-run]")];
  const lost = (option, key) => option.dataset.lost.split("|")[key] || "";

  function showRun(run) {
    for (const viewer of viewers) viewer.hidden = viewer.dataset.run !== run;
    for (const button of runButtons) button.setAttribute("aria-pressed", String(button.dataset.run === run));
  }

  function showProblem(viewer) {
    const select = viewer.querySelector(".problem");
    for (const pair of viewer.querySelectorAll(".pair")) pair.hidden = pair.id !== select.value;
    viewer.querySelector("output").textContent = `${select.selectedIndex + 1} of ${select.length}`;
    for (const button of viewer.querySelectorAll("[data-move]")) {
      const next = select.selectedIndex + Number(button.dataset.move);
      button.disabled = next < 0 || next >= select.length;
    }
  }

  function sort(viewer) {
    const key = viewer.querySelector(".sort").selectedIndex;
    const select = viewer.querySelector(".problem");
    const value = (option) => (lost(option, key) === "" ? -Infinity : Number(lost(option, key)));
    const options = [...select.options].sort((a, b) => Math.sign(value(b) - value(a)) || 0);
    for (const option of options) {
      const amount = lost(option, key) === "" ? "not scored" : (-Number(lost(option, key))).toFixed(2);
      option.textContent = `${option.dataset.id}  (${amount.replace("-", "\u2212")})`;
      select.append(option);
    }
    select.selectedIndex = 0;
    showProblem(viewer);
  }

  function move(viewer, by) {
    const select = viewer.querySelector(".problem");
    select.selectedIndex = Math.min(Math.max(select.selectedIndex + by, 0), select.length - 1);
    showProblem(viewer);
  }

  function followLink() {
    const pair = document.getElementById(location.hash.slice(1));
    if (!pair || !pair.classList.contains("pair")) return;
    const viewer = pair.closest(".viewer");
    showRun(viewer.dataset.run);
    viewer.querySelector(".problem").value = pair.id;
    showProblem(viewer);
    pair.scrollIntoView();
  }

  for (const viewer of viewers) {
    viewer.querySelector(".controls").hidden = false;
    viewer.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
    viewer.querySelector(".sort").addEventListener("change", () => sort(viewer));
    viewer.querySelector(".problem").addEventListener("change", () => showProblem(viewer));
    for (const button of viewer.querySelectorAll("[data-move]")) {
      button.addEventListener("click", () => move(viewer, Number(button.dataset.move)));
    }
    sort(viewer);
  }
  for (const button of runButtons) button.addEventListener("click", () => showRun(button.dataset.run));
  for (const picker of document.querySelectorAll(".picker")) picker.hidden = runButtons.length === 0;
  const alarmed = document.querySelector(".viewer[data-alarm]") || viewers[0];
  if (alarmed) showRun(alarmed.dataset.run);
  addEventListener("hashchange", followLink);
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("#configuration details")) part.open = true;
  });
  followLink();
})();
