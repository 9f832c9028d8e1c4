// How a plot fits its box: the names of the front stand where they cover least, and what is too
// wide for a narrow box is set closer.
(window.slugParts ??= []).push((slug) => {
  const NARROW = 480;                  // pixels
  const PLACES = ['top left', 'bottom right', 'top right', 'bottom left', 'top center', 'bottom center', 'middle left', 'middle right'];
  const axis = (layout, id) => layout[`${id[0]}axis${id.slice(1) || '1'}`] ?? layout[`${id[0]}axis`];
  const onto = (axis, value) => ((axis.type === 'log' ? Math.log10(value) : value) - axis.range[0]) / (axis.range[1] - axis.range[0]);

  // Pixels of a trace's points from the upper left corner of the box.
  function spots(trace, layout, box) {
    const {l, r, t, b} = layout.margin;
    const [wide, high] = [box.clientWidth - l - r, box.clientHeight - t - b];
    const [across, up] = [axis(layout, trace.xaxis), axis(layout, trace.yaxis)];
    const [low, top] = across.domain ?? [0, 1];
    return trace.x.map((x, i) => [l + wide * (low + (top - low) * onto(across, x)), t + high * (1 - onto(up, trace.y[i]))]);
  }
  function frame([x, y], place, wide, high, away) {
    const left = place.endsWith('left') ? x - away - wide : place.endsWith('right') ? x + away : x - wide / 2;
    const over = place.startsWith('top') ? y - away - high : place.startsWith('bottom') ? y + away : y - high / 2;
    return [left, over, left + wide, over + high];
  }
  const cover = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const dot = ([x, y], half) => [x - half, y - half, x + half, y + half];

  // A place for each name: as little as possible on marks, on the line, on other names, outside. The
  // chosen layer comes first; a name that would lie on others all the same is left to the pointer.
  function named(trace, figure, box) {
    const {layout} = figure;
    if (![trace.xaxis, trace.yaxis].every((id) => axis(layout, id)?.range)) return trace;
    const [points, size] = [spots(trace, layout, box), trace.textfont.size];
    const beside = figure.data.filter((other) => other.xaxis === trace.xaxis && other.x);
    const marks = beside.flatMap((other) => spots(other, layout, box)).map((spot) => dot(spot, 4));
    const joined = trace.mode.startsWith('lines') ? points : [];
    const line = joined.slice(1).flatMap(([x, y], i) => Array.from({length: 12}, (_, k) => dot([points[i][0] + (x - points[i][0]) * k / 12, points[i][1] + (y - points[i][1]) * k / 12], 1.5)));
    const [low, top] = axis(layout, trace.xaxis).domain ?? [0, 1];
    const inside = box.clientWidth - layout.margin.l - layout.margin.r;
    const panel = [layout.margin.l + low * inside, layout.margin.t, layout.margin.l + top * inside + layout.margin.r, box.clientHeight - layout.margin.b];
    const text = [], textposition = [];
    const rings = figure.data.filter((other) => other.xaxis === trace.xaxis && other.marker?.symbol === 'circle-open');
    const chosen = (i) => rings.some((ring) => ring.x[0] === trace.x[i] && ring.y[0] === trace.y[i]);
    const taken = points.filter((_, i) => chosen(i)).map((spot) => dot(spot, size));   // its ring
    const order = points.map((_, i) => i).sort((a, b) => chosen(b) - chosen(a));
    for (const i of order) {
      const spot = points[i];
      const [wide, high] = [0.56 * size * trace.text[i].length, 1.15 * size];
      const tried = PLACES.map((place, rank) => {
        const here = frame(spot, place, wide, high, 7);
        const sum = (others, weight) => weight * others.reduce((total, other) => total + cover(here, other), 0);
        const others = points.filter((_, k) => k !== i).map((point) => dot(point, 13));
        const outside = wide * high - cover(here, panel);
        return {place, here, cost: rank + sum(marks, 1) + sum(others, 2) + sum(line, 2) + sum(taken, 4) + 3 * outside};
      });
      const best = tried.reduce((a, b) => (b.cost < a.cost ? b : a));
      const hidden = points.filter((_, k) => k !== i).map((point) => dot(point, 5));
      const free = chosen(i) || (taken.every((other) => cover(best.here, other) < 0.08 * wide * high)
        && hidden.every((other) => cover(best.here, other) < 30) && cover(best.here, panel) > 0.9 * wide * high);
      textposition[i] = best.place;
      text[i] = free ? trace.text[i] : '';
      if (free) taken.push(best.here);
    }
    return {...trace, text, textposition};
  }

  function close(layout) {
    const panels = Object.keys(layout).filter((key) => /^xaxis/.test(key) && layout[key].domain);
    const thin = Object.fromEntries(panels.filter((key) => layout[key].type === 'log').map((key) => [key, {...layout[key], dtick: 2}]));
    if (panels.length > 1 && thin.xaxis1) thin.xaxis1 = {...thin.xaxis1, tickfont: {size: 1.25 * thin.xaxis1.tickfont.size}, tickvals: [1e-4, 1e-2], ticktext: ['10<sup>−4</sup>', '10<sup>−2</sup>'], tickmode: 'array'};   // 1 would touch the next panel's first
    const last = `x${panels.length} domain`;
    const annotations = layout.annotations.map((note) => (panels.length > 1 && note.xref === last ? {...note, x: 1, xanchor: 'right'} : note));
    return {...layout, ...thin, annotations};
  }

  // Every second power of ten only, where all of them would touch.
  function spaced(layout, box) {
    const tight = Object.entries(layout).filter(([key, axis]) => /^xaxis/.test(key) && axis.type === 'log' && axis.domain
      && box.clientWidth * (axis.domain[1] - axis.domain[0]) / (axis.range[1] - axis.range[0]) < 3.8 * axis.tickfont.size);
    return {...layout, ...Object.fromEntries(tight.map(([key, axis]) => [key, {...axis, dtick: 2}]))};
  }

  slug.fit = (figure, box) => {
    const narrow = box.clientWidth && box.clientWidth < NARROW && figure.layout.xaxis1?.domain;
    const fitted = {...figure, layout: narrow ? close(figure.layout) : spaced(figure.layout, box)};
    return {...fitted, data: fitted.data.map((trace) => (trace.mode?.endsWith('markers+text') ? named(trace, fitted, box) : trace))};
  };
});
