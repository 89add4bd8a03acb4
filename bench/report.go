package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// unit is what a figure counts.
type unit string

const (
	seconds   unit = "s"
	perSecond unit = "/s"
	bytesEach unit = "B"
	share     unit = "of 1"
)

// bound is what a figure should be at most or at least; zero does not bound.
type bound struct {
	Most  float64 `json:"most,omitempty"`
	Least float64 `json:"least,omitempty"`
}

func (b bound) met(v float64) bool {
	return (b.Most == 0 || v <= b.Most) && (b.Least == 0 || v >= b.Least)
}

func (b bound) text(format func(float64) string) string {
	switch {
	case b.Most != 0:
		return "≤ " + format(b.Most)
	case b.Least != 0:
		return "≥ " + format(b.Least)
	}
	return ""
}

// row is one comparison.
type row struct {
	Subject     string  `json:"subject"`
	What        string  `json:"what"`
	Unit        unit    `json:"unit"`
	Ours        float64 `json:"ours"`
	Beside      string  `json:"beside"` // floor or peer
	Theirs      float64 `json:"theirs"`
	Ratio       float64 `json:"ratio"`
	Higher      bool    `json:"higher,omitempty"` // a higher ratio is a better one
	RatioTarget bound   `json:"ratio_target,omitzero"`
	OursTarget  bound   `json:"ours_target,omitzero"`
	Met         *bool   `json:"met,omitempty"` // nil where there is no target
}

// times is a row whose ratio says how many times theirs ours is.
func times(what string, u unit, ours []float64, beside string, theirs []float64, target bound) row {
	return row{
		What: what, Unit: u, Ours: median(ours), Beside: beside, Theirs: median(theirs),
		Ratio: median(quotients(ours, theirs)), RatioTarget: target,
		Higher: u == perSecond || u == share && target.Least > 0,
	}
}

// faster is a row of times that says how many times as fast ours is.
func faster(what string, ours []float64, beside string, theirs []float64, target bound) row {
	r := times(what, seconds, ours, beside, theirs, target)
	r.Ratio, r.Higher = median(quotients(theirs, ours)), true
	return r
}

// report is what a run found, and where.
type report struct {
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Go      string   `json:"go"`
	Peers   []string `json:"peers,omitempty"` // and their versions
	Rows    []row    `json:"rows"`
	FanOut  []point  `json:"fan_out,omitempty"`
	Fates   []fate   `json:"restart,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

func newReport(now time.Time) *report {
	return &report{
		Date:    now.UTC().Format(time.RFC3339),
		Machine: fmt.Sprintf("%s/%s, %d × %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor()),
		Go:      runtime.Version(),
	}
}

// processor returns its model where the system tells.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "processor"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, model, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "processor"
}

func (r *report) add(subject string, rows []row) {
	for _, w := range rows {
		w.Subject = subject
		if w.RatioTarget != (bound{}) || w.OursTarget != (bound{}) {
			met := w.RatioTarget.met(w.Ratio) && w.OursTarget.met(w.Ours)
			w.Met = &met
		}
		r.Rows = append(r.Rows, w)
	}
}

// publish writes the file, if it has a name, and brings the table of targets up
// to date where it is one of those that the table is made of.
func (r *report) publish(file string) error {
	if file == "" {
		return nil
	}
	if err := r.write(file); err != nil || filepath.Dir(file) != "results" {
		return err
	}
	return writeTargets("results")
}

// write makes the file, and the plots beside it.
func (r *report) write(file string) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := r.save(file); err != nil {
		return err
	}
	return r.draw(dir)
}

func (r *report) save(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// draw makes the plots.
func (r *report) draw(dir string) error {
	caption := strings.Join([]string{r.Machine, r.Go, r.Date[:len(time.DateOnly)]}, ", ")
	var drawn bytes.Buffer
	if len(r.FanOut) > 0 {
		if err := plot(&drawn, r.FanOut, caption); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "fanout.svg"), drawn.Bytes(), 0o644)
	}
	for name, c := range r.charts(caption) {
		drawn.Reset()
		if err := c.draw(&drawn); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), drawn.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) print(out io.Writer) {
	cells := [][]string{{"", "ours", "floor or peer", "", "ratio", "target", ""}}
	var last row
	for _, w := range r.Rows {
		line := w.cells()
		if w.Subject != last.Subject {
			cells = append(cells, []string{""}, []string{strings.ToUpper(w.Subject)})
		} else if w.What == last.What {
			line[0], line[1] = "", ""
		}
		cells = append(cells, line)
		last = w
	}
	fmt.Fprintf(out, "%s, %s, %s\n\n", r.Machine, r.Go, r.Date)
	if len(r.Rows) > 0 {
		align(out, cells)
	}
	printFates(out, r.Fates)
	for _, n := range r.Notes {
		fmt.Fprintln(out, "\n"+n)
	}
}

func (w *row) cells() []string {
	figure := func(v float64) string { return format(v, w.Unit) }
	targets := []string{w.RatioTarget.text(ratio), w.OursTarget.text(figure)}
	verdict := ""
	if w.Met != nil {
		verdict = "missed"
		if *w.Met {
			verdict = "met"
		}
	}
	return []string{
		w.What, figure(w.Ours), w.Beside, figure(w.Theirs), ratio(w.Ratio) + "×",
		strings.Trim(strings.Join(targets, ", "), ", "), verdict,
	}
}

// align prints cells in columns: figures to the right, text to the left.
func align(out io.Writer, cells [][]string) {
	right := map[int]bool{1: true, 3: true, 4: true}
	var widths [7]int
	for _, line := range cells {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, line := range cells {
		var b strings.Builder
		for i, c := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if right[i] {
				b.WriteString(pad + c + "  ")
			} else {
				b.WriteString(c + pad + "  ")
			}
		}
		fmt.Fprintln(out, strings.TrimRight(b.String(), " "))
	}
}

func format(v float64, u unit) string {
	switch {
	case u == bytesEach && v >= 1024:
		return fmt.Sprintf("%.1f KiB", v/1024)
	case u == bytesEach:
		return fmt.Sprintf("%.1f B", v)
	case u == share:
		return fmt.Sprintf("%.1f %%", v*100)
	case u == perSecond:
		return thousands(v) + "/s"
	case v < 1e-6:
		return fmt.Sprintf("%.0f ns", v*1e9)
	case v < 1e-3:
		return fmt.Sprintf("%.1f µs", v*1e6)
	case v < 1:
		return fmt.Sprintf("%.2f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f s", v)
}

func ratio(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func thousands(v float64) string {
	digits := strconv.FormatInt(int64(v+.5), 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
