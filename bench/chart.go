package main

import (
	"io"
	"math"
	"strings"
)

// bars is a chart of figures on a logarithmic axis, in groups.
type bars struct {
	title, caption string
	unit           unit
	groups         []barGroup
}

type barGroup struct {
	name string
	bars []bar
}

type bar struct {
	name  string
	value float64
	ours  bool
}

// Of the bars, in pixels.
const (
	barsLeft  = 330
	barsWidth = 560
	barHeight = 17
	barsApart = 34
)

// draw writes the chart as SVG.
func (b *bars) draw(out io.Writer) error {
	low, high, height := math.Inf(1), 0.0, 80
	for _, g := range b.groups {
		height += barsApart + len(g.bars)*(barHeight+4)
		for _, x := range g.bars {
			low, high = min(low, x.value), max(high, x.value)
		}
	}
	low = math.Pow(10, math.Floor(math.Log10(low*.99)))
	d := new(drawing)
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13" fill="#111">`, barsLeft+barsWidth+130, height+20)
	d.printf(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	d.text(20, 28, "start", "#111", `font-size="17" font-weight="bold"`, b.title)
	d.text(20, 47, "start", "#555", "", b.caption)
	y := 62
	for _, g := range b.groups {
		d.text(20, float64(y+18), "start", "#111", `font-weight="bold"`, g.name)
		y += barsApart - 8
		for _, x := range g.bars {
			color := "#9ca3af"
			if x.ours {
				color = "#1d4ed8"
			}
			width := max(2, barsWidth*math.Log(x.value/low)/math.Log(high/low))
			d.text(barsLeft-8, float64(y+13), "end", "#111", "", x.name)
			d.printf(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, barsLeft, y, width, barHeight, color)
			d.text(barsLeft+width+6, float64(y+13), "start", "#111", "", format(x.value, b.unit))
			y += barHeight + 4
		}
		y += 8
	}
	d.printf("</svg>")
	_, err := io.WriteString(out, d.String())
	return err
}

// charts returns those of a report, by file name.
func (r *report) charts(caption string) map[string]*bars {
	caption += "; logarithmic"
	verify := &bars{title: "Time to verify a token, one core", caption: caption, unit: seconds}
	request := &bars{title: "Requests a second whose caller is known", caption: caption, unit: perSecond}
	http := &bars{title: "HTTP requests a second", caption: caption, unit: perSecond}
	set := &bars{title: "Looking a revocation up, by how many there are", caption: caption, unit: seconds}
	sessions := &bars{title: "One caller's time, by how many sessions there are", caption: caption, unit: seconds}
	for _, w := range r.Rows {
		switch w.Subject {
		case "growth-sessions":
			if w.Unit == seconds {
				sessions.grow(w)
			}
		case "verify":
			verify.add(w.What, "quash", w)
		case "request":
			request.add(w.What, "quash", w)
		case "http":
			http.add(w.What, "quash", w)
		case "growth":
			if strings.HasSuffix(w.What, ": hit") || strings.HasSuffix(w.What, ": miss") {
				set.add(w.What, "quash", w)
			}
		}
	}
	all := map[string]*bars{"verify.svg": verify, "request.svg": request, "http.svg": http, "set.svg": set, "sessions.svg": sessions}
	for name, b := range all {
		if len(b.groups) == 0 {
			delete(all, name)
		}
	}
	return all
}

// add puts a row's two figures in the group of its name.
func (b *bars) add(group, ours string, w row) {
	if n := len(b.groups); n == 0 || b.groups[n-1].name != group {
		b.groups = append(b.groups, barGroup{group, []bar{{ours, w.Ours, true}}})
	}
	g := &b.groups[len(b.groups)-1]
	g.bars = append(g.bars, bar{w.Beside, w.Theirs, false})
}

// grow puts a row of what has grown, named "what: how many", beside the figure
// from before, and where its group is there already, behind it.
func (b *bars) grow(w row) {
	group, name, _ := strings.Cut(w.What, ": ")
	if n := len(b.groups); n == 0 || b.groups[n-1].name != group {
		b.groups = append(b.groups, barGroup{group, []bar{{w.Beside, w.Theirs, false}}})
	}
	g := &b.groups[len(b.groups)-1]
	g.bars = append(g.bars, bar{name, w.Ours, true})
}
