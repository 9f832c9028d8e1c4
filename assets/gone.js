// Is it gone? The heat map of attacks by methods in Compare, and "Try to bring it back" beside the
// edit that is open in Erase. Both show what an attack gave on three models in one dialog.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, table, small, save, values, calls, percent} = slug;
  const ON = {edited: 'edited', original: 'original · the ceiling', reference: 'never saw it · the floor'};
  const lasts = (seconds) => (seconds < 90 ? `about ${Math.max(1, Math.round(seconds))} s` : `about ${Math.round(seconds / 60)} min`);
  const tries = (rate, n) => `${Math.round(rate * n)} of ${n}`;
  const said = (name) => ({original: 'original', reference: 'never saw it'}[name] ?? name);
  const empty = (value) => !value || !Object.keys(value).length;

  // ---- which panel of Compare is shown
  const looking = () => document.body.classList.contains('gone');
  function look(on) {
    document.body.classList.toggle('gone', on);
    const query = new URLSearchParams(location.search);
    if (on) query.set('view', 'gone');
    history.replaceState(null, '', query.size ? `?${query}` : location.pathname);
  }
  const [compare, erase, chosen] = [acts.compare, acts.erase, draw.choice];
  acts.compare = () => { look(false); compare(); };
  acts.erase = () => { look(false); erase(); };
  acts.gone = () => { if (!document.body.classList.contains('comparing')) compare(); look(true); calls.gone.show({}); };
  draw.choice = (body, value) => {      // another model or concept: another heat map
    const wanted = new URLSearchParams(location.search);
    if (wanted.get('view') === 'gone') look(true);
    chosen(body, value);
    if (looking()) look(true);
    const {gone, choice} = values;
    if (looking() && calls.gone && (!gone || gone.model !== choice.model || gone.concept !== choice.concept)) acts.gone();
    if (wanted.get('attack') && !restored) { restored = true; if (!wanted.get('view')) acts.bring(); }
  };
  let restored = false;                 // a link to an attack opens its panel, once

  // ---- the heat map
  const figure = (cell) => Math.round(100 * cell.rate);
  function told(value, row, name, cell) {
    const who = `${row.name}, ${said(name)}`;
    if (!cell) return `${who}: not tried yet: ${lasts(row.estimate)} or more`;
    if (cell.reason) return `${who}: ${cell.reason}`;
    const ends = name in value.about ? '' : ['original', 'reference'].map((on) => {
      const rate = cell[on] ?? row.cells[on]?.rate;
      return `${on === 'original' ? 'ceiling' : 'floor'} ${rate === undefined || rate === null ? 'not measured' : percent(rate)}`;
    }).join(', ');
    return `${who}: before the attack ${percent(cell.before ?? 0)}, with it ${percent(cell.rate)} (${tries(cell.rate, cell.n)} tries, 95 % interval ${percent(cell.low)} to ${percent(cell.high)})${ends ? `; ${ends}` : ''}${cell.source === 'shipped' ? '; shipped with the app' : ''}`;
  }
  function spot(value, row, name, call) {
    const cell = row.cells[name];
    const text = !cell ? '' : cell.reason ? '–' : name in value.about ? String(figure(cell)) : `${Math.round(100 * (cell.before ?? 0))}→${figure(cell)}`;
    return make('td', {}, make('button', {class: `spot ${cell?.rate === undefined ? 'none' : ''} ${cell?.source ?? ''}`, title: told(value, row, name, cell), 'aria-label': told(value, row, name, cell),
      tabindex: '-1', style: {'--heat': `${Math.round(70 * (cell?.rate ?? 0))}%`}, on: () => opened(call, {method: name, attack: row.name})}, text));
  }
  function line(value, row, call) {
    const about = [row.access, row.budget, row.cite].filter(Boolean).join('; ');
    if (row.reason) return make('tr', {class: 'away'}, make('th', {scope: 'row', title: about}, row.name), make('td', {colspan: String(value.columns.length)}, make('small', {}, row.reason.replace(/^[^:]*: /, ''))));
    const ceiling = row.cells.original?.rate;
    const moot = ceiling !== undefined && ceiling < 0.5;
    return make('tr', {class: moot ? 'moot' : ''}, make('th', {scope: 'row', title: moot ? `It fails on the original too, so it proves nothing here. ${about}` : about}, row.name, moot ? make('small', {}, ' proves nothing here') : null),
      ...value.columns.map((name) => spot(value, row, name, call)));
  }
  draw.gone = (body, value, call) => {
    let group = '';
    const rows = [...value.rows.filter((row) => !row.reason), ...value.rows.filter((row) => row.reason)];
    const lines = rows.flatMap((row) => {
      const title = row.reason ? `cannot attack ${value.model}` : row.group;
      const head = title === group ? [] : [make('tr', {class: 'group'}, make('th', {scope: 'colgroup'}, title), make('td', {colspan: String(value.columns.length)}))];
      group = title;
      return [...head, line(value, row, call)];
    });
    const tilted = value.columns.map((name) => make('th', {scope: 'col', title: value.about[name] ?? name, class: name in value.about ? 'end' : ''}, make('span', {}, said(name))));
    const map = make('table', {class: 'heat'}, make('thead', {}, make('tr', {}, make('td', {}), ...tilted)), make('tbody', {}, ...lines));
    const counted = rows.reduce((total, row) => total + Object.values(row.cells).filter((cell) => cell.rate !== undefined).length, 0);
    body.replaceChildren(make('p', {class: 'lead'}, `“${value.concept}” in ${value.model}: ${counted ? `${counted} cells are measured` : 'nothing is measured yet'}; click a cell to see it or to run it. `,
      value.stale ? make('small', {}, 'The shipped cells were made with other weights. ') : null,
      value.away.length ? small(`${value.away.length} methods left out`, 'Methods that cannot edit this model, and why', () => dialog('Left out, and why', table(['method', 'reason'], value.away))) : null,
      make('span', {class: 'scale', 'aria-hidden': 'true'}, '0 ', make('i', {}), ' 100 % of tries')),
    make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Attacks by methods; arrow keys walk over the cells'}, map));
    map.querySelector('.spot')?.setAttribute('tabindex', '0');
    map.addEventListener('keydown', (event) => walk(event, map));
  };
  function walk(event, map) {
    const way = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[event.key];
    const now = document.activeElement;
    if (!way || !now.matches('.spot')) return;
    event.preventDefault();
    const rows = [...map.querySelectorAll('tr')].map((row) => [...row.querySelectorAll('.spot')]).filter((row) => row.length);
    const at = rows.findIndex((row) => row.includes(now));
    const next = rows[at + way[0]]?.[rows[at].indexOf(now) + way[1]];
    if (!next) return;
    now.setAttribute('tabindex', '-1');
    next.setAttribute('tabindex', '0');
    next.focus();
  }
  acts.goneTable = () => {
    const value = values.gone;
    if (!value) return;
    const head = ['attack', 'method', 'before', 'after', 'low', 'high', 'n', 'ceiling', 'floor', 'source', 'note'];
    const share = (rate) => (rate === undefined || rate === null ? '' : rate.toFixed(3));
    const rows = value.rows.flatMap((row) => (row.reason ? [[row.name, '', '', '', '', '', '', '', '', '', row.reason]] : Object.entries(row.cells).map(([name, cell]) => [row.name, said(name),
      share(cell.before), share(cell.rate), share(cell.low), share(cell.high), cell.n ?? '', share(cell.original ?? row.cells.original?.rate), share(cell.reference ?? row.cells.reference?.rate), cell.source, cell.reason ?? ''])));
    dialog('Every cell', make('p', {}, 'Share of tries in which the concept is there before and after each attack; ceiling: the same attack on the original; floor: on the model that never saw it. Cells that were not run are left out.'),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('attacks.csv', [head, ...rows]))), table(head, rows)).classList.add('wide');
  };

  // ---- one attack on three models
  function path(losses) {
    const node = (tag, attributes) => { const made = document.createElementNS('http://www.w3.org/2000/svg', tag); Object.entries(attributes).forEach(([k, v]) => made.setAttribute(k, v)); return made; };
    const [low, high] = [Math.min(...losses), Math.max(...losses)];
    const at = losses.map((loss, i) => `${(200 * i / Math.max(1, losses.length - 1)).toFixed(1)},${(44 - 40 * (loss - low) / (high - low || 1)).toFixed(1)}`);
    const drawn = node('svg', {viewBox: '0 0 200 48', preserveAspectRatio: 'none', role: 'img', 'aria-label': `loss from ${losses[0].toPrecision(2)} to ${losses.at(-1).toPrecision(2)} in ${losses.length} steps`});
    drawn.append(node('polyline', {points: at.join(' ')}));
    return make('figure', {class: 'losses'}, drawn, make('figcaption', {}, `loss ${losses[0].toPrecision(2)} → ${losses.at(-1).toPrecision(2)}, ${losses.length} steps`));
  }
  function rate(side) {
    const bar = make('span', {class: 'range forget', 'aria-hidden': 'true'}, make('i', {style: {width: `${100 * side.rate}%`}}), make('u', {style: {left: `${100 * side.low}%`, width: `${100 * (side.high - side.low)}%`}}));
    return [make('p', {class: 'rate', title: `95 % interval ${percent(side.low)} to ${percent(side.high)}`}, make('b', {}, tries(side.rate, side.n)), make('small', {}, ' tries'), bar),
      make('p', {}, make('small', {}, side.n_before ? `Before the attack: ${tries(side.before, side.n_before)}` : 'The rate before the attack was not recorded'))];
  }
  function shown(side) {
    if (!side) return [make('p', {}, make('small', {}, busy() ? 'not tried yet: it comes next' : 'not tried yet'))];
    if (side.reason) return [make('p', {class: 'why'}, side.reason)];
    const words = (shot) => { const [question, before, after] = shot.said; return make('li', {class: shot.hit ? 'hit' : ''}, make('img', {src: shot.src, alt: ''}), make('p', {}, make('small', {}, question), make('span', {}, make('small', {}, 'before '), before || '–'), make('b', {}, make('small', {}, 'after '), after || '–'))); };
    const told = side.pictures.length && side.pictures[0].said?.length ? make('ul', {class: 'said', tabindex: '0', 'aria-label': 'what was asked and said of each picture; framed: the concept is named'}, ...side.pictures.map(words)) : null;
    const shots = told ? [] : side.pictures.map((shot) => make('img', {src: shot.src, class: shot.hit ? 'hit' : '', alt: shot.hit ? 'shows the concept' : 'does not show it', title: shot.hit ? 'shows the concept' : 'does not show it'}));
    const most = Math.max(...side.curve.map(([, share]) => share), 0);
    const steps = side.curve.slice(0, 12).map(([text, share]) => make('li', {class: share && share === most ? 'most' : ''}, make('span', {}, text), make('b', {}, percent(share))));
    return [...rate(side), shots.length ? make('div', {class: 'shots'}, ...shots) : told, side.more ? make('p', {}, make('small', {}, `and ${side.more} more`)) : null,
      side.found ? make('p', {}, make('small', {}, 'found: '), make('q', {}, side.found)) : null, side.note ? make('p', {}, make('small', {}, side.note)) : null,
      side.losses.length > 1 ? path(side.losses) : null, steps.length ? make('ul', {class: 'rates'}, ...steps) : null,
      side.seconds ? make('p', {}, make('small', {}, `${side.seconds.toFixed(1)} s`)) : null].filter(Boolean);
  }
  function tried(attack) {
    const names = Object.keys(attack.sides).length === 1 && !attack.sides.edited ? Object.keys(attack.sides) : Object.keys(ON);
    return make('section', {class: 'tried'}, make('h3', {}, attack.name, make('small', {}, [attack.access, attack.budget].filter(Boolean).join(' · '))),
      make('div', {class: 'sides3'}, ...names.map((on) => make('div', {class: `side ${on}`}, make('h4', {}, ON[on]), ...shown(attack.sides[on])))));
  }
  let box = null, picked = null, target = null;
  const saying = () => document.querySelector('#status .said')?.textContent ?? '';
  const busy = () => document.body.classList.contains('busy');
  function running() {
    const live = values.live;
    if (empty(live) || (!busy() && !live.stopped)) return null;
    const text = live.stopped ? 'Stopped here; what was done before stays.' : saying();
    return make('section', {class: 'live', role: 'status'}, live.src ? make('img', {src: live.src, alt: 'the best picture so far'}) : null,
      make('div', {}, make('h3', {}, `${live.attack}, ${ON[live.on]}`), make('p', {class: 'now'}, text), live.src ? make('p', {}, make('small', {}, 'The best picture so far')) : null, live.losses.length > 1 ? path(live.losses) : null));
  }
  function controls(value) {
    const stop = make('button', {class: 'small', type: 'button', on: () => document.querySelector('#stop')?.click()}, 'Stop');
    if (busy()) return make('p', {class: 'go'}, stop, empty(values.live) ? make('small', {class: 'now'}, saying()) : null);
    if (value.cell) {
      const {cell} = value;
      if (cell.reason) return make('p', {class: 'why'}, cell.reason);
      const text = cell.here ? 'Complete it here' : 'Run it here';
      return cell.here && !cell.estimate ? null : make('p', {class: 'go'}, small(text, `${lasts(cell.estimate)}${cell.first ? `; ${cell.first}` : ''}`, () => begin(calls.gone, {method: cell.method, attack: cell.attack})),
        make('small', {}, [lasts(cell.estimate), cell.first, cell.here ? '' : 'then its pictures, what it found and its loss are here'].filter(Boolean).join('; ')));
    }
    const option = (attack) => make('option', {value: attack.name, disabled: Boolean(attack.reason)}, attack.name);
    const able = value.attacks.filter((attack) => !attack.reason);
    const groups = [...new Set(able.map((attack) => attack.group))];
    const pair = value.first.length > 1 ? [make('option', {value: ''}, value.first.join(', then '))] : [];
    const pick = make('select', {'aria-label': 'Which attack'}, ...pair, ...groups.map((group) => make('optgroup', {label: group}, ...able.filter((attack) => attack.group === group).map(option))));
    pick.value = picked ?? (pair.length ? '' : value.first[0]);
    const names = () => (pick.value ? [pick.value] : value.first);
    const note = make('small', {});
    const tell = () => {
      const some = able.filter((attack) => names().includes(attack.name));
      const wait = some.reduce((total, attack) => total + attack.estimate, 0);
      note.textContent = [wait ? lasts(wait) : 'already tried', ...some.slice(0, names().length > 1 ? 0 : 1).flatMap((attack) => [attack.access, attack.budget, attack.cite])].filter(Boolean).join(' · ');
    };
    pick.addEventListener('change', () => { picked = pick.value; tell(); });
    tell();
    const away = value.attacks.filter((attack) => attack.reason);
    return make('p', {class: 'go'}, pick, small('Try to bring it back', 'On the edited model, then on the original and the one that never saw it', () => begin(calls.attack, {attacks: names()})), note,
      away.length ? small(`${away.length} cannot be tried`, 'Attacks that cannot be tried on this model, and why', () => dialog('Cannot be tried here, and why', table(['attack', 'reason'], away.map((attack) => [attack.name, attack.reason])))) : null);
  }
  function begin(call, data) {
    document.body.classList.add('busy');
    call.run(data);
    fill();
  }
  function fill() {
    if (!box?.isConnected) return;
    const value = values.attack;
    const inside = box.querySelector('.inside');
    const fresh = !empty(value) && (target ? value.cell?.method === target.method && value.cell?.attack === target.attack : !value.cell);
    if (!fresh) { inside.replaceChildren(make('p', {}, busy() ? 'One moment…' : 'Nothing is known yet.')); return; }
    const lead = value.cell ? null : make('p', {class: 'lead'}, value.edit ? `“${value.concept}” in ${value.model}, edited: ${value.edit}` : 'There is no edit to attack yet: choose a layer, or run a method, first.');
    inside.replaceChildren(...[lead, value.sentence ? make('p', {class: 'sum'}, value.sentence) : null, value.cell || value.edit ? controls(value) : null, running(), ...value.tried.map(tried)].filter(Boolean));
  }
  function open(title) {
    box?.close();
    box = dialog(title, make('p', {}, 'One moment…'));
    box.classList.add('wide', 'attacked');
    fill();
  }
  function opened(call, cell) {
    target = cell;
    open(`${cell.attack} · ${said(cell.method)}`);
    call.open(cell);
  }
  acts.bring = () => {
    target = null;
    open('Try to bring it back');
    const go = () => (calls.attack ? calls.attack.show({}) : setTimeout(go, 60));
    go();
  };
  draw.attack = fill;
  draw.live = fill;
  const status = draw.status;
  draw.status = (body, value) => {
    const before = busy();
    status(body, value);
    const line = box?.isConnected && box.querySelector('.now');
    if (before !== busy()) fill();
    else if (line && busy()) line.textContent = value.text;
  };
});
