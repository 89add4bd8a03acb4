package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// point is the median of confirmed revocations to a number of clients, in
// seconds, beside the floor and NATS.
type point struct {
	Clients   int     `json:"clients"`
	TLS       bool    `json:"tls,omitempty"`
	Confirmed float64 `json:"confirmed"`
	Floor     float64 `json:"floor"`
	NATS      float64 `json:"nats"`
}

// line is one of those that are drawn.
type line struct {
	name, color, dash string
	mark              string // an SVG path around the origin
	value             func(point) float64
}

var lines = []line{
	{"NATS: append and fsync, then NATS core with an answer from each", "#c2410c", "", "M0,-6L5.5,4.5H-5.5Z", func(p point) float64 { return p.NATS }},
	{"Quash: revocation committed to SQLite, then confirmed by each", "#1d4ed8", "", "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", func(p point) float64 { return p.Confirmed }},
	{"floor: append and fsync, then bare TCP with an answer from each", "#4b5563", "5,4", "M-4,-4H4V4H-4Z", func(p point) float64 { return p.Floor }},
}

// Of the drawing, in pixels.
const (
	panelWidth  = 430
	panelHeight = 300
	panelLeft   = 70
	panelTop    = 140
	panelApart  = 90
	below       = 120
)

// plot draws the points on logarithmic axes: one panel without TLS and one with,
// the figures below.
func plot(out io.Writer, points []point, caption string) error {
	panels := [2][]point{}
	for _, p := range points {
		if p.TLS {
			panels[1] = append(panels[1], p)
		} else {
			panels[0] = append(panels[0], p)
		}
	}
	d := drawing{low: math.Inf(1), left: panelLeft}
	for _, p := range points {
		for _, l := range lines {
			d.low, d.high = min(d.low, l.value(p)), max(d.high, l.value(p))
		}
	}
	d.low, d.high = math.Pow(10, math.Floor(math.Log10(d.low))), math.Pow(10, math.Ceil(math.Log10(d.high)))
	width := panelLeft + 2*panelWidth + panelApart + 30
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13" fill="#111">`, width, panelTop+panelHeight+below)
	d.printf(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	d.text(panelLeft, 28, "start", "#111", `font-size="17" font-weight="bold"`, "A revocation until every client has acknowledged it, median")
	d.text(panelLeft, 47, "start", "#555", "", caption)
	d.legend()
	for i, name := range []string{"plain", "over TLS"} {
		if len(panels[i]) > 0 {
			d.panel(name, panels[i])
		}
		d.left += panelWidth + panelApart
	}
	d.printf("</svg>")
	_, err := io.WriteString(out, d.String())
	return err
}

type drawing struct {
	strings.Builder
	low, high float64 // seconds at the bottom and the top
	left      float64 // of the panel
	least     int     // clients at its left edge
	most      int     // and at its right
}

func (d *drawing) printf(format string, args ...any) {
	fmt.Fprintf(d, format, args...)
	d.WriteByte('\n')
}

func (d *drawing) text(x, y float64, anchor, color, more, text string) {
	d.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" %s>%s</text>`, x, y, anchor, color, more, text)
}

func (d *drawing) legend() {
	for i, l := range lines {
		y := 70 + 19*float64(i)
		d.printf(`<path d="M%d,%.1fh34" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`, panelLeft, y, l.color, l.dash)
		d.mark(l, panelLeft+17, y)
		d.text(panelLeft+44, y+4, "start", l.color, "", l.name)
	}
}

func (d *drawing) mark(l line, x, y float64) {
	d.printf(`<path d="%s" transform="translate(%.1f,%.1f)" fill="%s" stroke="#fff"/>`, l.mark, x, y, l.color)
}

// x and y place a number of clients and seconds.
func (d *drawing) x(clients int) float64 {
	const inset = 40
	if d.most == d.least {
		return d.left + panelWidth/2
	}
	part := math.Log(float64(clients)/float64(d.least)) / math.Log(float64(d.most)/float64(d.least))
	return d.left + inset + part*(panelWidth-2*inset)
}

func (d *drawing) y(seconds float64) float64 {
	return panelTop + panelHeight*(1-math.Log(seconds/d.low)/math.Log(d.high/d.low))
}

func (d *drawing) panel(name string, points []point) {
	d.least, d.most = points[0].Clients, points[len(points)-1].Clients
	d.grid()
	d.text(d.left+10, panelTop+20, "start", "#111", `font-weight="bold"`, name)
	for _, p := range points {
		d.printf(`<path d="M%.1f,%dv6" stroke="#111"/>`, d.x(p.Clients), panelTop+panelHeight)
		d.text(d.x(p.Clients), panelTop+panelHeight+21, "middle", "#111", "", thousands(float64(p.Clients)))
	}
	d.text(d.left+panelWidth/2, panelTop+panelHeight+106, "middle", "#111", "", "clients")
	for i, l := range lines {
		d.line(l, points)
		d.figures(l, points, panelTop+panelHeight+42+18*float64(i))
	}
}

func (d *drawing) grid() {
	for decade := d.low; decade < d.high*1.01; decade *= 10 {
		for _, digit := range []float64{1, 2, 5} {
			v := digit * decade
			if v > d.high*1.01 {
				break
			}
			color := "#e5e7eb"
			if digit == 1 {
				color = "#9ca3af"
			}
			d.printf(`<path d="M%.1f,%.1fh%d" stroke="%s"/>`, d.left, d.y(v), panelWidth, color)
			d.text(d.left-7, d.y(v)+4, "end", "#444", `font-size="11"`, milliseconds(v))
		}
	}
	d.printf(`<rect x="%.1f" y="%d" width="%d" height="%d" fill="none" stroke="#111"/>`, d.left, panelTop, panelWidth, panelHeight)
}

func (d *drawing) line(l line, points []point) {
	var path []string
	for _, p := range points {
		path = append(path, fmt.Sprintf("%.1f,%.1f", d.x(p.Clients), d.y(l.value(p))))
	}
	d.printf(`<path d="M%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`, strings.Join(path, "L"), l.color, l.dash)
	for _, p := range points {
		d.mark(l, d.x(p.Clients), d.y(l.value(p)))
	}
}

// figures are the values in words, below the axis.
func (d *drawing) figures(l line, points []point, y float64) {
	for _, p := range points {
		d.text(d.x(p.Clients), y, "middle", l.color, `font-size="12"`, milliseconds(l.value(p)))
	}
}

func milliseconds(seconds float64) string {
	switch ms := seconds * 1e3; {
	case seconds >= .995:
		return strings.Replace(fmt.Sprintf("%.1f s", seconds), ".0", "", 1)
	case ms < .995:
		return fmt.Sprintf("%.2g ms", ms)
	case ms < 9.95:
		return strings.Replace(fmt.Sprintf("%.1f ms", ms), ".0", "", 1)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}
