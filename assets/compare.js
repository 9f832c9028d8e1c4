// The view Compare: a sortable table of methods, a plot of what is gone against what is kept, and
// the same prompts from one seed by every method that was run. All text goes in by textContent.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, table, small, save, values, calls, percent} = slug;
  let sorted = {key: '', down: false};

  // ---- the two views
  function look(comparing) {
    document.body.classList.toggle('comparing', comparing);
    document.querySelectorAll('.brand .view').forEach((one) => {
      const now = (one.dataset.act === 'compare') === comparing;
      one.classList.toggle('chosen', now);
      one.setAttribute('aria-pressed', String(now));
    });
    const query = new URLSearchParams(location.search);
    if (comparing) query.set('view', 'compare'); else query.delete('view');
    history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
    window.dispatchEvent(new Event('resize'));
  }
  acts.erase = () => look(false);
  acts.compare = () => { look(true); calls.compare.show({}); };
  const chosen = draw.choice;
  draw.choice = (body, value) => {      // another model or concept: another table
    chosen(body, value);
    const wanted = ['compare', 'gone'].includes(new URLSearchParams(location.search).get('view'));
    const here = document.body.classList.contains('comparing');
    const {compare, choice} = values;
    const other = !compare || compare.model !== choice.model || compare.concept !== choice.concept;
    if ((wanted || here) && calls.compare && other) { look(true); calls.compare.show({}); }
  };

  const lasts = (seconds) => (seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${Math.round(seconds / 60)} min`);
  const took = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`);
  const known = (row) => Object.keys(row.values).length > 0;
  const runnable = (row) => row.name !== 'original' && !row.reason;

  function cell(column, found) {
    if (!found) return make('td', {class: 'none'}, '');
    const [share, low, high, n] = found;
    const said = low === null ? `${n}` : `95 % interval ${percent(low)} to ${percent(high)}, n ${n}`;
    const bar = make('span', {class: `range ${column.less || column.key === 'ua' ? 'forget' : ''}`, 'aria-hidden': 'true'},
      make('i', {style: {width: `${100 * share}%`}}));
    if (low !== null) bar.append(make('u', {style: {left: `${100 * low}%`, width: `${100 * (high - low)}%`}}));
    return make('td', {title: said}, bar, make('b', {}, percent(share)), make('span', {class: 'sr'}, said));
  }
  function order(rows) {
    if (!sorted.key) return [...rows.filter((row) => !row.reason), ...rows.filter((row) => row.reason)];
    const of = (row) => (sorted.key === 'seconds' ? row.seconds : row.values[sorted.key]?.[0]);
    return [...rows].sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if ((x ?? null) === null) return 1;
      if ((y ?? null) === null) return -1;
      return sorted.down ? y - x : x - y;
    });
  }
  function line(row, value, call) {
    const does = runnable(row) ? [
      small(known(row) && row.source === 'here' ? 'run again' : 'run', `Run ${row.name}, ${lasts(row.estimate)}`, () => call.run({methods: [row.name]})),
      row.source === 'here' && known(row) ? small('open', `Open the edit by ${row.name} in Erase`, () => { look(false); call.open({method: row.name}); }) : null] : [];
    const note = row.reason || row.note || (row.source === 'shipped' ? 'shipped with the app' : '');
    const about = [row.cite, row.deviations ? `Deviations: ${row.deviations}` : ''].filter(Boolean).join('. ');
    return make('tr', {class: `${row.name === values.choice?.method ? 'ours' : ''} ${row.reason ? 'away' : ''}`},
      make('th', {scope: 'row', title: about}, row.name, note && !row.reason ? make('small', {}, note) : null),
      ...(row.reason ? [make('td', {colspan: String(value.columns.length), class: 'reason'}, make('small', {}, row.reason))] : value.columns.map((column) => cell(column, row.values[column.key]))),
      make('td', {class: 'number'}, row.seconds === null || row.seconds === undefined ? (runnable(row) ? make('small', {}, lasts(row.estimate)) : '') : took(row.seconds)),
      make('td', {class: 'does'}, ...does.filter(Boolean)));
  }
  function head(value, body, call) {
    const sort = (key) => { sorted = {key, down: sorted.key === key ? !sorted.down : key !== 'seconds' && !value.columns.find((one) => one.key === key)?.less}; draw.compare(body, value, call); };
    const arrow = (key) => (sorted.key === key ? (sorted.down ? ' ↓' : ' ↑') : '');
    const by = (key, title, note) => make('th', {scope: 'col', title: note, 'aria-sort': sorted.key === key ? (sorted.down ? 'descending' : 'ascending') : null},
      make('button', {class: 'link', on: () => sort(key)}, `${title}${arrow(key)}`));
    return make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, 'method'),
      ...value.columns.map((one) => by(one.key, one.title, one.note)), by('seconds', 'time', 'seconds until the edit was there; before a run an estimate'), make('th', {scope: 'col'}, '')));
  }

  function lines(value, call) {
    let group = '';
    return order(value.rows).flatMap((row) => {
      const title = row.reason ? `cannot edit ${value.model}` : row.group;
      const first = !sorted.key && title !== group;
      group = title;
      const wide = String(value.columns.length + 3);
      return [first ? make('tr', {class: 'group'}, make('th', {colspan: wide, scope: 'colgroup'}, title)) : null, line(row, value, call)].filter(Boolean);
    });
  }

  // ---- what is gone against what is kept
  function tradeoff(value) {
    const keys = value.columns.map((one) => one.key);
    const kept = keys.filter((key) => key !== 'ua' && key !== 'forget_acc');
    const points = value.rows.filter(known).map((row) => {
      const rates = kept.map((key) => row.values[key]?.[0]).filter((one) => one !== undefined);
      const gone = row.values.ua ? row.values.ua[0] : 1 - row.values.forget_acc[0];
      return {name: row.name, group: row.group, gone, kept: rates.reduce((a, b) => a + b, 0) / Math.max(1, rates.length), seconds: row.seconds ?? 0};
    });
    const trace = {type: 'scatter', mode: 'markers+text', x: points.map((one) => one.kept), y: points.map((one) => one.gone),
      text: points.map((one) => one.name), textposition: 'top center', textfont: {size: 11, color: '--ink'},
      hovertemplate: '%{text}: gone %{y:.0%}, kept %{x:.0%}<extra></extra>',
      marker: {size: points.map((one) => 8 + 5 * Math.log10(1 + one.seconds)), color: points.map((one) => (one.name === 'original' ? '--muted' : one.group === 'single layer' ? '--chosen' : '--retain')), line: {width: 1, color: '--card'}}};
    const axis = (title) => ({title: {text: title, font: {size: 12, color: '--muted'}}, tickformat: '.0%', gridcolor: '--line', zeroline: false, color: '--muted', range: [-0.05, 1.12]});
    return {data: [trace], layout: {margin: {l: 48, r: 12, t: 8, b: 40}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false,
      xaxis: axis('everything else kept'), yaxis: axis('concept gone')}};
  }

  // ---- the same prompts from one seed
  function gallery(value) {
    const rows = value.rows.filter((row) => row.pictures.length);
    if (!rows.length) return [];
    return [make('h3', {}, 'The same seed by every method', make('small', {}, value.roles.join(', '))),
      make('div', {class: 'grid', style: {'--columns': String(rows[0].pictures.length)}}, ...rows.flatMap((row) => [
        make('span', {class: 'who'}, row.name),
        ...row.pictures.map((one) => make('button', {title: `${row.name}: the judge sees ${one.text}`, on: () => beside(value, row)}, make('img', {src: one.src, alt: `${row.name}: ${one.text}`})))]))];
  }
  function beside(value, row) {
    const others = value.rows.filter((one) => one.pictures.length && one !== row);
    const column = (one) => make('figure', {}, make('figcaption', {}, one.name), ...one.pictures.map((shot) => make('img', {src: shot.src, alt: shot.text})));
    const box = dialog(`${row.name} beside another method`, make('div', {class: 'beside'}, column(row), ...(others.length ? [column(others[0])] : [])));
    if (others.length < 2) return;
    const pick = make('select', {'aria-label': 'the other method'}, ...others.map((one, i) => make('option', {value: String(i)}, one.name)));
    pick.addEventListener('change', () => box.querySelector('.beside').replaceChildren(column(row), column(others[Number(pick.value)])));
    box.querySelector('.inside').prepend(pick);
  }

  draw.compare = (body, value, call) => {
    const missing = value.rows.filter((row) => runnable(row) && !(known(row) && row.source === 'here'));
    const quick = missing.filter((row) => row.estimate <= 5);
    const sum = (rows) => rows.reduce((total, row) => total + row.estimate + 10, 0);
    const button = (text, rows) => (rows.length ? small(text, `${rows.map((row) => row.name).join(', ')}: ${lasts(sum(rows))}`, () => call.run({methods: rows.map((row) => row.name)})) : null);
    const box = make('div', {class: 'plot', role: 'img'});
    const away = value.not_ported.map((one) => [one.name, one.reason]);
    body.replaceChildren(make('div', {class: 'methods'},
      make('p', {class: 'lead'}, `“${value.concept}” in ${value.model}, judged on pictures and seeds that no method has seen. `,
        button(`Run the ${quick.length} quick ones`, quick), button(`Run all ${missing.length}`, missing.length > quick.length ? missing : []),
        small(`${away.length} not ported`, 'Methods that are not here, and why', () => dialog('Not ported, and why', table(['method', 'reason'], away)))),
      make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Methods'}, make('table', {class: 'compare'}, head(value, body, call), make('tbody', {}, ...lines(value, call))))),
    make('div', {class: 'sides'}, box, make('div', {class: 'gallery'}, ...gallery(value))));
    const figure = tradeoff(value);
    slug.plot(box, figure, `Trade-off: ${figure.data[0].text.map((name, i) => `${name} gone ${percent(figure.data[0].y[i])}, kept ${percent(figure.data[0].x[i])}`).join('; ')}`, () => {});
  };

  acts.published = () => {
    const rates = (one) => `${one[0]} / ${one[1]} / ${one[2]}`;
    const rows = (values.compare?.published ?? []).map((one) => [one.name, rates(one.style), rates(one.object), one.seconds ?? '-', one.note]);
    dialog('Published figures: Stable Diffusion 1.5, not comparable', make('p', {}, 'UA / IRA / CRA in per cent and seconds, as the papers print them. Another model, other pictures, another judge: they say nothing about the rows here.'),
      table(['method', 'styles', 'objects', 'seconds', 'source'], rows)).classList.add('wide');
  };
  acts.compareTable = () => {
    const value = values.compare;
    if (!value) return;
    const titles = value.columns.flatMap((one) => [one.key, `${one.key} low`, `${one.key} high`, `${one.key} n`]);
    save('compare.csv', [['method', 'group', ...titles, 'seconds', 'source', 'note'], ...value.rows.map((row) => [row.name, row.group,
      ...value.columns.flatMap((one) => row.values[one.key] ?? ['', '', '', '']), row.seconds ?? '', row.source ?? '', row.reason || row.note || ''])]);
  };
});
