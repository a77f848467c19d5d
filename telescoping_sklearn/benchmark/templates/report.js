"use strict";
document.documentElement.classList.add("js");

function sortBy(table, column, descending) {
  const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: row.cells[column].dataset.value }));
  const numeric = rows.every(({ value }) => value === "" || !Number.isNaN(Number(value)));
  const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  rows.sort((a, b) => {
    if ((a.value === "") !== (b.value === "")) return a.value === "" ? 1 : -1;  // what is missing stands last
    return (descending ? -1 : 1) * compare(a.value, b.value) || a.place - b.place;
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

const swatches = document.querySelectorAll(".legend .swatch");

function fill(tip, stop) {
  const head = document.createElement("b");
  head.textContent = stop.dataset.head;
  const lines = JSON.parse(stop.dataset.lines).map(([style, model, value]) => {
    const line = document.createElement("span");
    const name = document.createElement("u");
    name.textContent = model;
    const said = document.createElement("em");
    said.textContent = value;
    line.append(swatches[style].cloneNode(true), name, said);
    return line;
  });
  tip.replaceChildren(head, ...lines);
}

function place(tip, plot, stop) {
  const svg = plot.querySelector("svg");
  const scale = plot.clientWidth / svg.viewBox.baseVal.width;
  const at = Number(stop.dataset.x) * scale;
  const right = at + 12 + tip.offsetWidth <= plot.clientWidth;
  const left = right ? at + 12 : Math.max(0, at - 12 - tip.offsetWidth);
  tip.style.left = `${Math.min(left, Math.max(0, plot.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${14 * scale}px`;
}

for (const plot of document.querySelectorAll(".plot")) {
  const stops = [...plot.querySelectorAll(".stop")];
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");  // the stop's own label says the same
  plot.append(tip);
  const hide = () => {
    tip.hidden = true;
    stops.forEach((stop) => stop.classList.remove("shown"));
  };
  const show = (stop) => {
    hide();
    stop.classList.add("shown");
    fill(tip, stop);
    tip.hidden = false;
    place(tip, plot, stop);
  };
  stops.forEach((stop, position) => {
    stop.querySelector("title").remove();
    stop.setAttribute("tabindex", position ? "-1" : "0");
    stop.addEventListener("pointerenter", () => show(stop));
    stop.addEventListener("click", () => show(stop));
    stop.addEventListener("focus", () => show(stop));
    stop.addEventListener("blur", hide);
    stop.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -position, End: stops.length - 1 - position };
      const next = event.key in steps && stops[position + steps[event.key]];
      if (!next) return;
      event.preventDefault();
      stops.forEach((other) => other.setAttribute("tabindex", other === next ? "0" : "-1"));
      next.focus();
    });
  });
  plot.addEventListener("pointerleave", hide);
}

document.getElementById("save").addEventListener("click", () => {
  const { columns, rows } = JSON.parse(document.getElementById("results").textContent);
  const quote = (cell) => (cell === null ? "" : /[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
  const lines = [columns, ...rows].map((row) => row.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = "results.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
