// What came with the app beside what is computed again. All text goes in by textContent.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, small, save, calls} = slug;

  // ---- computed again
  let asked = 0;
  acts.again = () => calls.map?.again({});
  draw.again = (body, value) => {
    if (value.asked <= asked) return;
    asked = value.asked;
    const rows = value.rows.map(([what, shipped, now]) => make('tr', {class: shipped === now ? '' : 'differs'},
      make('th', {scope: 'row'}, what), make('td', {}, shipped), make('td', {}, now)));
    const other = value.rows.filter(([, shipped, now]) => shipped !== now).length;
    const code = value.same_code ? 'the same code' : 'code that has changed since';
    dialog(`“${value.concept}” in ${value.model}, computed again`,
      make('p', {}, `${other ? `${other} of ${rows.length} lines differ` : `All ${rows.length} lines are the same`}: what came with the app, and what ${code} found just now in ${Math.round(value.seconds)} s, from new gradients and a new search.`),
      make('table', {class: 'again'}, make('thead', {}, make('tr', {}, ...['', 'shipped', 'now'].map((one) => make('th', {scope: 'col'}, one)))), make('tbody', {}, ...rows)),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('again.csv', [['what', 'shipped', 'now'], ...value.rows])))).classList.add('wide');
  };
});
