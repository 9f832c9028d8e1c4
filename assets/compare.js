// The view Compare: a sortable table of methods, a plot of what is gone against what is kept, and
// the same prompts from one seed by every row that was run. All text goes in by textContent.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, table, small, save, values, calls, percent} = slug;
  const asked = new URLSearchParams(location.search);

  // ---- what is looked at, and in which order: all of it is in the link
  const link = {sort: '', columns: '', panel: '', published: '', ...Object.fromEntries(['sort', 'columns', 'panel', 'published'].map((key) => [key, asked.get(key) ?? '']))};
  function linked(change) {
    Object.assign(link, change);
    const query = new URLSearchParams(location.search);
    Object.entries(change).forEach(([key, value]) => (value ? query.set(key, value) : query.delete(key)));
    history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
  }
  const sorted = () => { const [key, way] = link.sort.split('.'); return {key, down: way === 'down'}; };

  // ---- the three views
  const VIEWS = ['erase', 'compare', 'atlas'];
  function look(view) {
    slug.view = view;
    document.body.classList.toggle('comparing', view === 'compare');
    document.body.classList.toggle('mapping', view === 'atlas');
    if (view !== 'compare') document.body.classList.remove('gone');
    document.querySelectorAll('.brand .view').forEach((button) => {
      const now = button.dataset.act === view;
      button.classList.toggle('chosen', now);
      button.setAttribute('aria-pressed', String(now));
    });
    linked({view: view === 'erase' ? '' : view});
    window.dispatchEvent(new Event('resize'));
  }
  slug.look = look;
  acts.erase = () => look('erase');
  acts.compare = () => { look('compare'); calls.compare.show({}); };
  acts.atlas = () => { look('atlas'); calls.atlas.show({}); };
  const stale = {                       // what a view shows is of another model or concept
    compare: (now, {model, concept, anchor}) => now.model !== model || now.concept !== concept || now.anchor !== anchor,
    atlas: (now, {model}) => now.model !== model,
  };
  const chosen = draw.choice;
  draw.choice = (body, value) => {      // another model, concept or anchor: another table
    chosen(body, value);
    const asked = new URLSearchParams(location.search).get('view');
    const wanted = asked === 'gone' ? 'compare' : asked;   // a part of it
    const view = slug.view === 'erase' && VIEWS.includes(wanted) ? wanted : slug.view;
    if (view === 'erase' || !calls[view]) return;
    if (!values[view] || stale[view](values[view], values.choice)) { look(view); calls[view].show({}); }
  };

  // ---- figures
  const lasts = (seconds) => (seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${Math.round(seconds / 60)} min`);
  const took = (seconds) => (seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`);
  const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`);
  const short = (count) => (count < 1e4 ? String(count) : count < 1e6 ? `${Math.round(count / 1e3)} k` : `${(count / 1e6).toFixed(1)} M`);
  const FORMS = {share: percent, bytes: size, count: short, number: (value) => value.toPrecision(3)};
  const write = (column, value) => FORMS[column.form](value);
  const known = (row) => Object.keys(row.values).length > 0;
  const runnable = (row) => row.name !== 'original' && !row.reason;
  const here = (row) => row.source === 'here' && known(row);
  const group = (value) => value.groups.find((set) => set.title === link.columns) ?? value.groups[0];
  // The columns of the group that is shown, without those that mean nothing for this concept.
  const columnsOf = (value) => {
    const all = group(value).columns, some = all.filter((column) => value.rows.some((row) => row.values?.[column.key]));
    return some.length ? some : all;
  };
  const every = (value) => [...new Map(value.groups.flatMap((set) => set.columns.map((column) => [column.key, column]))).values()];
  const scaled = (rate) => (rate === null ? null : 100 * rate);   // for an axis in per cent
  const PERCENT = {ticksuffix: ' %', hoverformat: '.0f'};
  const spread = (found) => (found.length < 3 || found[1] === null ? `${found[3] ? `n ${found[3]}` : ''}` : `95 % interval ${percent(found[1])} to ${percent(found[2])}, n ${found[3]}`);

  function cell(column, row) {
    const found = row.values[column.key];
    if (!found || found[0] === null) return make('td', {class: 'none'}, '');
    const [value, low, high] = found;
    const said = spread(found);
    const before = row.old[column.key];
    const was = before === undefined || write(column, before) === write(column, value) ? null : make('small', {class: 'was', title: 'before this run'}, `was ${write(column, before)}`);
    if (column.form !== 'share') return make('td', {class: 'number', title: said}, write(column, value), was);
    const bar = make('span', {class: `range ${column.less || column.key === 'ua' ? 'forget' : ''}`, 'aria-hidden': 'true'},
      make('i', {style: {width: `${100 * value}%`}}));
    if (low !== null) bar.append(make('u', {style: {left: `${100 * low}%`, width: `${100 * (high - low)}%`}}));
    return make('td', {title: said}, bar, make('b', {}, percent(value)), was, make('span', {class: 'sr'}, said));
  }

  // ---- the table
  function order(rows) {
    const {key, down} = sorted();
    if (!key) return [...rows.filter((row) => !row.reason || row.group === 'references'), ...rows.filter((row) => row.reason && row.group !== 'references')];
    const of = (row) => (key === 'seconds' ? row.seconds : row.values[key]?.[0]);
    return [...rows].sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if ((x ?? null) === null) return 1;
      if ((y ?? null) === null) return -1;
      return down ? y - x : x - y;
    });
  }
  function line(row, value, call) {
    const columns = columnsOf(value);
    const does = runnable(row) ? [
      small(here(row) ? 'again' : 'run', `Run ${row.name}${here(row) ? ' again' : ''}, ${lasts(row.total)} judging included`, () => call.run({methods: [row.name]})),
      row.opens ? small('open', `Open the edit by ${row.name} in Erase`, () => { look('erase'); call.open({method: row.name}); }) : null] : [];
    const note = row.reason || row.note;
    const name = row.name === 'original' ? row.name : make('button', {class: 'link', title: [row.cite, row.about, row.made].filter(Boolean).join('. '), on: () => details(row, value, call)}, row.name);
    const time = !row.seconds ? (runnable(row) ? make('small', {title: 'an estimate'}, lasts(row.estimate).replace('about ', '~')) : '') : took(row.seconds);
    const said = here(row) && row.seconds ? make('small', {title: `said before the run: ${lasts(row.estimate)}`}, ` ~${Math.max(1, Math.round(row.estimate))}`) : null;
    return make('tr', {class: `${row.name === values.choice?.method ? 'ours' : ''} ${row.reason ? 'away' : ''} ${here(row) ? 'here' : ''}`},
      make('th', {scope: 'row'}, name, note && !row.reason ? make('small', {}, note) : null),
      ...(row.reason ? [make('td', {colspan: String(columns.length), class: 'reason'}, make('small', {}, row.group === 'references' ? row.reason : row.reason.replace(/^[^:]*: /, '')))] : columns.map((column) => cell(column, row))),
      make('td', {class: 'number'}, time, said),
      make('td', {class: 'does'}, ...does.filter(Boolean)));
  }
  function head(value, body, call) {
    const {key: now, down} = sorted();
    const columns = columnsOf(value);
    const sort = (key) => {
      const falls = now === key ? !down : key !== 'seconds' && !columns.find((column) => column.key === key)?.less;
      linked({sort: `${key}.${falls ? 'down' : 'up'}`});
      draw.compare(body, value, call);
    };
    const by = (key, title, note) => make('th', {scope: 'col', title: note, 'aria-sort': now === key ? (down ? 'descending' : 'ascending') : null},
      make('button', {class: 'link', on: () => sort(key)}, `${title}${now === key ? (down ? ' ↓' : ' ↑') : ''}`));
    const first = now ? make('button', {class: 'link', title: 'In groups again', on: () => { linked({sort: ''}); draw.compare(body, value, call); }}, 'method') : 'method';
    return make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, first),
      ...columns.map((column) => by(column.key, column.title, column.note)), by('seconds', 'time', 'seconds until the edit was there; before a run an estimate'), make('th', {scope: 'col'}, make('span', {class: 'sr'}, 'what can be done'))));
  }
  function lines(value, call) {
    let last = '';
    return order(value.rows).flatMap((row) => {
      const title = row.reason && row.group !== 'references' ? (value.anchor ? `cannot turn ${value.concept} into ${value.anchor} in ${value.model}` : `cannot edit ${value.model}`) : row.group;
      const first = !link.sort && title !== last;
      last = title;
      const wide = String(columnsOf(value).length + 3);
      return [first ? make('tr', {class: 'group'}, make('th', {colspan: wide, scope: 'colgroup'}, title)) : null, line(row, value, call)].filter(Boolean);
    });
  }
  // One row in full: where it comes from, what it costs, and what it gave before.
  function details(row, value, call) {
    const rows = every(value).filter((column) => row.values[column.key]).map((column) => [column.title, write(column, row.values[column.key][0]),
      row.old[column.key] === undefined ? '' : write(column, row.old[column.key]), spread(row.values[column.key]), column.note]);
    const cite = row.bibtex ? [make('h3', {}, 'Citation'), make('pre', {tabindex: '0'}, row.bibtex), small('Copy', 'Copy the citation', () => slug.copy(row.bibtex, 'The citation is copied.'))] : [];
    const inside = row.opens ? [make('p', {}, small('Before and after inside', 'Cosines of pictures with names, and a map of the features, before and after', () => { box.close(); call.detail({method: row.name}); }))] : [];
    const box = dialog(row.name, make('p', {}, [row.cite, row.about, row.made].filter(Boolean).join('. ')), row.note ? make('p', {}, row.note) : '',
      row.explains && !row.reason ? (meant = make('div', {class: 'meant', role: 'status'}, make('p', {}, make('small', {}, 'Looking at the features that it turns off…')))) : '',
      rows.length ? table(['figure', 'is', 'was', '', 'what it is'], rows) : make('p', {}, row.reason || 'Not run yet.'), ...inside, ...cite);
    box.classList.add('wide');
    if (!row.explains || row.reason) return;
    const look = () => call.features({});
    if (!document.body.classList.contains('busy')) look();    // what runs is not to be stopped by a look
    else meant.replaceChildren(small('What it turns off', 'Stops what is running, and shows the features that it turns off', look));
  }
  // What the features of the sparse autoencoder mean: each with the captions that drive it most, drawn.
  let meant = null;
  function features({rows, reason}, value) {
    if (!meant?.isConnected) return;
    if (reason) { meant.replaceChildren(make('p', {}, reason)); return; }
    const shot = ({caption, src}) => make('figure', {}, make('img', {src, alt: ''}), make('figcaption', {}, caption));
    meant.replaceChildren(make('h3', {}, `What it turns off for “${value.concept}”`),
      make('p', {}, make('small', {}, `${rows.length} of the autoencoder’s features, the most active on the concept first. Each with the captions that drive it most, as the unedited model draws them, and the share of all captions on which it is active.`)),
      make('ul', {}, ...rows.map((row) => make('li', {}, make('p', {}, make('b', {}, `feature ${row.feature}`), make('small', {}, `active on ${percent(row.share)}`)), make('div', {class: 'drawn'}, ...row.shots.map(shot))))));
  }
  // What an edit did inside: cosines of pictures (rows) with names (columns), and a map of features.
  let seen = 0;
  function within(value) {
    const found = value.detail;
    if (!found || found.asked === seen) return;
    seen = found.asked;
    const {names, before, after} = found.matrix;
    const all = [...before, ...after].flat();
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const shade = (cosine) => make('td', {class: 'shade', title: cosine.toFixed(3), style: {'--heat': `${Math.round(85 * (cosine - low) / (high - low || 1))}%`}}, cosine.toFixed(2).replace('0.', '.'));
    const grid = (title, rows) => make('figure', {class: 'cosines'}, make('figcaption', {}, title), make('table', {}, make('thead', {}, make('tr', {}, make('td', {}), ...names.map((name) => make('th', {scope: 'col'}, make('span', {}, name))))),
      make('tbody', {}, ...rows.map((row, i) => make('tr', {}, make('th', {scope: 'row'}, names[i]), ...row.map(shade))))));
    const box = make('div', {class: 'plot', role: 'img'});
    const sheet = dialog(`${found.name}: before and after inside`, make('p', {}, 'Cosines of pictures (rows) with names (columns) in the model’s CLIP.'), make('div', {class: 'pairs'}, grid('before', before), grid('after', after)),
      ...(found.map.length ? [make('p', {}, 'Features of the report split on their two main axes (PCA) before the edit; a line joins before and after.'), box] : []));
    sheet.classList.add('wide');
    if (!found.map.length) return;
    const own = (point) => point.name === names[0];
    const marks = (some, side, colour, symbol, name) => ({type: 'scatter', mode: 'markers', name, x: some.map((point) => point[side][0]), y: some.map((point) => point[side][1]), text: some.map((point) => point.name),
      hovertemplate: `%{text}, ${side}<extra></extra>`, marker: {color: colour, symbol, size: 7}});
    const joined = {type: 'scatter', mode: 'lines', hoverinfo: 'skip', showlegend: false, line: {color: '--faint', width: 1},
      x: found.map.flatMap((point) => [point.before[0], point.after[0], null]), y: found.map.flatMap((point) => [point.before[1], point.after[1], null])};
    const [mine, rest] = [found.map.filter(own), found.map.filter((point) => !own(point))];
    const axis = {zeroline: false, gridcolor: '--line', color: '--muted', showticklabels: false};
    slug.plot(box, {data: [joined, marks(rest, 'before', '--retain', 'circle-open', 'others before'), marks(rest, 'after', '--retain', 'circle', 'others after'), marks(mine, 'before', '--forget', 'circle-open', `${names[0]} before`), marks(mine, 'after', '--forget', 'circle', `${names[0]} after`)],
      layout: {margin: {l: 12, r: 12, t: 8, b: 12}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: '--muted'}, showlegend: true, legend: {orientation: 'h'}, xaxis: axis, yaxis: axis}}, `Features of ${found.map.length} items before and after`, () => {});
  }

  // ---- many concepts: what is left of all that were erased, and what is kept of the rest
  const COLOURS = ['--chosen', '--retain', '--forget', '#cc79a7', '#a68a00', '#6a5acd', '#7f7f7f', '#b15928'];
  let order_of = '', on_many = false, by = '';
  function curves(value) {
    const now = value.many.orders.includes(order_of) ? order_of : value.many.orders[0];
    const lines = value.many.lines.filter((line) => line.order === now && line.method !== 'original');
    const methods = [...new Set(lines.map((line) => line.method))];
    const data = lines.map((line) => ({type: 'scatter', mode: 'lines+markers', name: line.method, legendgroup: line.method, showlegend: line.metric === 'retain_acc',
      x: line.points.map((point) => point[0]), y: line.points.map((point) => scaled(point[1])), customdata: line.points.map((point) => [point[2], point[5], percent(point[1])]),
      hovertemplate: `${line.method}, ${line.metric === 'retain_acc' ? 'kept' : 'left'}: %{customdata[2]} of %{customdata[0]} after %{x} (%{customdata[1]})<extra>${line.how}, ${line.source}</extra>`,
      line: {color: COLOURS[methods.indexOf(line.method) % COLOURS.length], dash: line.metric === 'retain_acc' ? 'solid' : 'dot', width: 2}, marker: {size: 6}}));
    const counts = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    const axis = (title) => ({title: {text: title, font: {size: 12, color: '--muted'}, standoff: 4}, gridcolor: '--line', zeroline: false, color: '--muted'});
    return {now, lines, figure: {data, layout: {margin: {l: 48, r: 12, t: 8, b: 36}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: '--muted', size: 11}, showlegend: true, legend: {font: {size: 11}},
      xaxis: {...axis('concepts erased'), type: 'log', tickmode: 'array', tickvals: counts, ticktext: counts.map(String)}, yaxis: {...axis('solid: others kept; dotted: erased ones left'), ...PERCENT, range: [-5, 108]}}}};
  }
  function together(value, body, call, box) {
    const {now, lines, figure} = curves(value);
    const again = () => draw.compare(body, value, call);
    if (value.many.reason) return [make('p', {class: 'lead'}, value.many.reason)];
    const way = make('span', {class: 'tabs', role: 'group', 'aria-label': 'Together or one after another'}, ...value.many.orders.map((order) => make('button', {class: `tab ${order === now ? 'chosen' : ''}`, type: 'button', 'aria-pressed': String(order === now), on: () => { order_of = order; again(); }}, order)));
    const pick = make('select', {'aria-label': 'Method of a live run'}, ...value.many.methods.map((name) => make('option', {value: name, selected: name === (by || values.choice?.method)}, name)));
    pick.addEventListener('change', () => { by = pick.value; });
    const run = small(`Run on ${value.many.count} concepts`, `Erase “${value.concept}” and the next ${value.many.count - 1} of its kind`, () => call.many({method: pick.value, order: now}));
    if (lines.length) slug.plot(box, figure, `Many concepts, ${now}: ${lines.map((line) => `${line.method} ${line.metric === 'retain_acc' ? 'kept' : 'left'} ${line.points.map((point) => `${percent(point[1])} after ${point[0]}`).join(', ')}`).join('; ')}`, () => {});
    return [make('p', {class: 'lead'}, way, pick, run), lines.length ? box : make('p', {class: 'empty'}, 'Nothing has been run yet. The curves will show how much stays erased, and how much is kept, as more concepts are erased.')];
  }

  // ---- what is gone against what is kept
  function tradeoff(value) {
    const rows = value.rows.filter((row) => row.values.ua || row.values.forget_acc);
    const kept = value.groups[0].columns.filter((column) => column.key !== 'ua' && !column.less && rows.every((row) => row.values[column.key])).map((column) => column.key);
    const mean = (rates) => rates.reduce((a, b) => a + b, 0) / Math.max(1, rates.length);
    const points = rows.map((row) => {
      const rates = kept.map((key) => row.values[key]?.[0]).filter((rate) => rate !== undefined && rate !== null);
      const gone = row.values.ua ? row.values.ua[0] : 1 - row.values.forget_acc[0];
      return {name: row.name, group: row.group, gone, kept: mean(rates), seconds: row.seconds ?? 0};
    });
    const marks = (link.published === '1' ? value.published : []).map((row) => ({...row, gone: row.rates.ua, kept: mean(kept.map((key) => row.rates[key]))}));   // in per cent, as printed
    const spots = [];                    // names of points that lie near each other stand in one label
    const near = (point, other) => Math.abs(point.kept - other.kept) < 0.05 && Math.abs(point.gone - other.gone) < 0.05;
    points.forEach((point) => { const there = spots.find((some) => near(some[0], point)); if (there) there.push(point); else spots.push([point]); });
    const label = (point) => { const some = spots.find((each) => each[0] === point); return !some ? '' : some.length > 2 ? `${point.name} +${some.length - 1}` : some.map((each) => each.name).join(', '); };
    const colour = (point) => (point.group === 'references' ? '--muted' : point.group.startsWith('controls') ? '--faint' : point.name === values.choice?.method ? '--chosen' : '--retain');
    const trace = {type: 'scatter', mode: 'markers+text', x: points.map((point) => 100 * point.kept), y: points.map((point) => scaled(point.gone)), name: 'rows',
      text: points.map(label), xaxis: 'x', yaxis: 'y', textfont: {size: 11, color: '--ink'},
      customdata: points.map((point) => [point.name, percent(point.gone), percent(point.kept)]), hovertemplate: '%{customdata[0]}: gone %{customdata[1]}, kept %{customdata[2]}<extra></extra>',
      marker: {size: points.map((point) => 8 + 5 * Math.log10(1 + point.seconds)), color: points.map(colour), opacity: 0.85, line: {width: 1, color: '--card'}}};
    const hollow = {type: 'scatter', mode: 'markers', name: 'published', x: marks.map((mark) => mark.kept), y: marks.map((mark) => mark.gone), xaxis: 'x', yaxis: 'y',
      customdata: marks.map((mark) => mark.hover.join('<br>')), hovertemplate: '%{customdata}<extra></extra>',
      hoverlabel: {align: 'left', bgcolor: '--card', bordercolor: '--line', font: {size: 11, color: '--ink'}}, marker: {symbol: 'diamond-open', size: 9, color: '--muted', line: {width: 1.5}}};
    const low = Math.min(80, ...trace.x, ...hollow.x);
    const axis = (title, range) => ({title: {text: title, font: {size: 12, color: '--muted'}, standoff: 4}, ...PERCENT, gridcolor: '--line', zeroline: false, color: '--muted', range});
    return {points, marks, data: marks.length ? [trace, hollow] : [trace], layout: {margin: {l: 48, r: 12, t: 8, b: 36}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false,
      xaxis: axis('everything else kept', [low - 8, 100 + Math.max(5, 0.2 * (100 - low))]), yaxis: axis('concept gone', [-8, 116])}};
  }

  // ---- the same prompts from one seed
  function gallery(value) {
    const rows = value.rows.filter((row) => row.pictures.length);
    const [wide] = rows;
    if (!wide) return [make('p', {class: 'empty'}, value.roles.length ? 'Run a row, and its pictures appear here: the same prompts and seed for every row.' : 'Only models that draw pictures have a gallery.')];
    return [make('div', {class: 'grid', style: {'--columns': String(wide.pictures.length)}},
      make('span', {}, ''), ...value.roles.map((role) => make('small', {}, role)),
      ...rows.flatMap((row) => [make('span', {class: 'who'}, row.name),
        ...row.pictures.map((shot, i) => make('button', {title: `${row.name}, ${value.roles[i]}: the judge sees ${shot.text}`, on: () => beside(value, row)}, make('img', {src: shot.src, alt: `${row.name}: ${shot.text}`})))]))];
  }
  function beside(value, row) {
    const others = value.rows.filter((other) => other.pictures.length && other !== row);
    const column = (some) => make('figure', {}, make('figcaption', {}, some.name), ...some.pictures.map((shot, i) => make('div', {}, make('img', {src: shot.src, alt: shot.text}), make('small', {}, `${value.roles[i]}: ${shot.text} ${percent(shot.share)}`))));
    const box = dialog(`${row.name} beside another row`, make('div', {class: 'beside'}, column(row), ...(others.length ? [column(others[0])] : [])));
    if (others.length < 2) return;
    const pick = make('select', {'aria-label': 'the other row'}, ...others.map((other, i) => make('option', {value: String(i)}, other.name)));
    pick.addEventListener('change', () => box.querySelector('.beside').replaceChildren(column(row), column(others[Number(pick.value)])));
    box.querySelector('.inside').prepend(pick);
  }

  // ---- panels: each can fill the page, and stand in another one
  function panel(name, title, ...inside) {
    const wide = () => { linked({panel: link.panel === name ? '' : name}); filled(); };
    return make('section', {class: `panel ${name}`, 'data-panel': name}, make('h3', {}, make('span', {}, title), make('span', {class: 'acts'},
      make('button', {class: 'icon', type: 'button', title: 'Embed this panel in another page', 'aria-label': `Embed: ${title}`, on: () => embed(name, title)}, '</>'),
      make('button', {class: 'icon', type: 'button', title: 'Fill the page with this panel, and back', 'aria-label': `Maximise: ${title}`, on: wide}, '⤢'))), ...inside);
  }
  function filled() {
    document.body.classList.toggle('filled', !!link.panel);
    document.querySelectorAll('#compare [data-panel]').forEach((panel) => panel.classList.toggle('full', panel.dataset.panel === link.panel));
    window.dispatchEvent(new Event('resize'));
  }
  function embed(name, title) {
    const address = new URL(location.href);
    Object.entries({view: 'compare', panel: name, embed: '1'}).forEach(([key, value]) => address.searchParams.set(key, value));
    const text = make('iframe', {src: address.href, title: `slugdemo: ${title}`, width: '960', height: '600', style: {border: '0'}}).outerHTML;
    dialog('Embed this panel', make('p', {}, 'The frame shows this panel alone, of this model and concept, and stays live.'), make('pre', {tabindex: '0'}, text),
      small('Copy', 'Copy the snippet', () => slug.copy(text, 'The snippet is copied.')));
  }
  document.body.classList.toggle('embedded', asked.get('embed') === '1');

  // ---- what is run at once
  let quick = 5;
  function several(value, body, call) {
    const missing = value.rows.filter((row) => runnable(row) && !here(row) && !row.group.startsWith('controls'));
    const some = missing.filter((row) => row.estimate <= quick);
    const total = some.reduce((sum, row) => sum + row.total, 0);
    const pick = make('select', {'aria-label': 'seconds that a row may take'}, ...[1, 2, 5, 10, 30, 60].map((seconds) => make('option', {value: String(seconds), selected: seconds === quick}, `${seconds} s`)));
    pick.addEventListener('change', () => { quick = Number(pick.value); draw.compare(body, value, call); });
    const run = small(`Run ${some.length} rows, ${lasts(total)}`, some.map((row) => row.name).join(', ') || 'nothing is left to run', () => call.run({methods: some.map((row) => row.name)}));
    run.disabled = !some.length;
    return make('span', {class: 'several'}, 'Up to ', pick, ' ', run);
  }
  function replacing(value, call) {
    const names = (values.choices?.concepts ?? []).flatMap((set) => set.rows.map((row) => row.name));
    const field = make('input', {type: 'text', id: 'become', list: 'become-names', value: value.anchor, placeholder: 'nothing', maxlength: '40', size: '10', 'aria-label': 'Replace by: what the concept should become; empty to remove it'});
    field.addEventListener('change', () => call.show({anchor: field.value.trim()}));
    return make('label', {class: 'become', title: 'What the concept should become; empty to remove it'}, 'Replace by ', field,
      make('datalist', {id: 'become-names'}, ...names.map((name) => make('option', {value: name}))));
  }

  // The trade-off on one concept, or curves of many.
  function side(value, body, call, box) {
    const tab = (title, many) => make('button', {class: `tab ${many === on_many ? 'chosen' : ''}`, type: 'button', 'aria-pressed': String(many === on_many), on: () => { on_many = many; draw.compare(body, value, call); }}, title);
    const hollow = on_many || !value.published.length ? null : make('button', {class: 'small hollow', type: 'button', 'aria-pressed': String(link.published === '1'), title: 'Figures that papers print: other models, other pictures, another judge. They say nothing about the rows here and take no part in any order.',
      on: () => { linked({published: link.published === '1' ? '' : '1'}); draw.compare(body, value, call); }}, '◇ Published, SD 1.5 (RAZOR: SD 3), not comparable');
    const tabs = make('p', {class: 'lead'}, make('span', {class: 'tabs', role: 'group', 'aria-label': 'One concept or many'}, tab('One concept', false), tab('Many concepts', true)), hollow);
    return panel('tradeoff', on_many ? 'Many concepts at once' : 'Trade-off: kept against gone', tabs, ...(on_many ? together(value, body, call, box) : [box]));
  }

  draw.compare = (body, value, call) => {
    const at = body.querySelector('.scroll')?.scrollTop ?? 0;
    const box = make('div', {class: 'plot', role: 'img'});
    const away = value.not_ported.map((method) => [method.name, method.reason]);
    const tabs = make('span', {class: 'tabs', role: 'group', 'aria-label': 'Which columns'}, ...value.groups.map((set) => {
      const now = set === group(value);
      return make('button', {class: `tab ${now ? 'chosen' : ''}`, type: 'button', 'aria-pressed': String(now), on: () => { linked({columns: set.title}); draw.compare(body, value, call); }}, set.title);
    }));
    const made = [...new Set(value.rows.filter((row) => row.source === 'shipped' && row.made && row.group !== 'references').map((row) => row.made))];
    const dated = made.length ? `Rows without a mark were ${made[0]}. ` : '';
    body.replaceChildren(
      panel('table', `“${value.concept}” in ${value.model}${value.anchor ? `, to become “${value.anchor}”` : ''}`,
        make('p', {class: 'lead'}, tabs, several(value, body, call), replacing(value, call)),
        make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Methods'}, make('table', {class: 'compare'}, head(value, body, call), make('tbody', {}, ...lines(value, call)))),
        make('p', {class: 'foot'}, `${dated}${value.gauges} `, small(`${away.length} not ported`, 'Methods that are not here, and why', () => dialog('Not ported, and why', table(['method', 'reason'], away))))),
      make('div', {class: 'sides'}, side(value, body, call, box), panel('gallery', 'The same seed by every row', ...gallery(value))));
    body.querySelector('.scroll').scrollTop = at;
    filled();
    within(value);
    if (value.features) features(value.features, value);
    if (on_many) return;
    const {points, marks, ...figure} = tradeoff(value);
    const told = [...points.map((point) => `${point.name} gone ${percent(point.gone)}, kept ${percent(point.kept)}`), ...marks.map((mark) => `published: ${mark.hover.join(', ')}`)];
    slug.plot(box, figure, `Trade-off: ${told.join('; ')}`, () => {});
  };

  acts.published = () => {
    const rates = (scores) => scores.map((score) => score.toFixed(2)).join(' / ');
    const rows = (values.compare?.published ?? []).map((row) => [row.name, rates(row.style), rates(row.object), ...[row.fid, row.seconds, row.memory, row.storage].map((figure) => figure ?? '-'), row.note]);
    dialog('Published figures: Stable Diffusion 1.5 (RAZOR: 3), not comparable', make('p', {}, 'UA / IRA / CRA in per cent, FID, seconds and GB, as the papers print them. Another model, other pictures, another judge: they say nothing about the rows here.'),
      table(['method', 'styles', 'objects', 'FID', 'seconds', 'memory', 'storage', 'source'], rows)).classList.add('wide');
  };
  acts.compareTable = () => {
    const value = values.compare;
    if (!value) return;
    const columns = every(value);
    const titles = columns.flatMap((column) => (column.form === 'share' ? [column.key, `${column.key} low`, `${column.key} high`, `${column.key} n`] : [column.key]));
    const figures = (row, column) => (column.form === 'share' ? [0, 1, 2, 3].map((i) => row.values[column.key]?.[i] ?? '') : [row.values[column.key]?.[0] ?? '']);
    save('compare.csv', [['model', 'concept', 'replaced by', 'row', 'group', ...titles, 'seconds', 'seconds said', 'source', 'made', 'cite', 'note'],
      ...value.rows.map((row) => [value.model, value.concept, value.anchor, row.name, row.group, ...columns.flatMap((column) => figures(row, column)),
        row.seconds ?? '', row.estimate ?? '', row.source ?? '', row.made ?? '', row.cite ?? '', row.reason || row.note || ''])]);
  };
});
