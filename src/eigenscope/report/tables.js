// Tables: sorted by a click on a column's name, saved as CSV with all digits.
"use strict";

// A text that a spreadsheet would take for a formula gets a leading '.
function csvField(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function saveCsv(title, rows) {
  const text = rows.map((row) => row.map(csvField).join(",")).join("\r\n") + "\r\n";
  const link = document.createElement("a");
  const stem = title.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-+|-+$/g, "");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${stem.toLowerCase() || "numbers"}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function makeButton(text, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", onClick);
  return button;
}

// A number where the cell holds one, else its text; null where a number is missing.
function cellValue(row, place) {
  const cell = row.cells[place];
  if (cell.dataset.value === undefined) return cell.textContent;
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compareCells(first, second) {
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), undefined, { numeric: true });
}

function sortTable(table, place) {
  const headers = table.tHead.rows[0].cells;
  const order = headers[place].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  for (const header of headers) header.removeAttribute("aria-sort");
  headers[place].setAttribute("aria-sort", order);
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [cellValue(row, place), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // missing last
    return sign * compareCells(a, b);
  });
  body.append(...rows.map(([, row]) => row));
}

function tableRows(table, names) {
  const cells = (row) => names.map((_, place) => cellValue(row, place));
  return [names, ...Array.from(table.tBodies[0].rows, cells)];
}

function startTable(table) {
  const headers = Array.from(table.tHead.rows[0].cells);
  const names = headers.map((header) => header.textContent);
  headers.forEach((header, place) => {
    const button = makeButton(names[place], () => sortTable(table, place));
    header.replaceChildren(button);
  });
  const title = table.closest("section").querySelector("h2");
  const bar = document.createElement("div");
  bar.className = "table-title";
  title.replaceWith(bar);
  bar.append(
    title,
    makeButton("CSV", () => saveCsv(title.textContent, tableRows(table, names))),
  );
}

document.querySelectorAll("table.sortable").forEach(startTable);
