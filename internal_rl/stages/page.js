// A click on the head of a column sorts its table; a second one turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const upwards = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const keyOf = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
      const compare = (one, other) => {
        const [a, b] = [keyOf(one), keyOf(other)];
        // What has no number stays behind, whichever way the rest is sorted.
        if (a === "" || b === "") return (a === "") - (b === "");
        const [x, y] = [Number(a === "inf" ? Infinity : a), Number(b === "inf" ? Infinity : b)];
        const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x === y ? 0 : x - y;
        return upwards ? order : -order;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(compare));
    });
  });
}
