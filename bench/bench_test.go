package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(clientsVariable); ok {
		exit(runClients(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

var tiny = sizes{
	rounds:      2,
	long:        1,
	revocations: 2000,
	tokens:      3,
	hot:         40,
	verified:    10,
	lookups:     1000,
	parallel:    5 * time.Millisecond,
	single:      3,
	grouped:     256,
	fleets:      []fleetSize{{clients: 3, verifiers: true, visits: 2, series: 2, batches: 1, peerToo: true, sustained: 1}},
	warm:        2,
	perSecond:   500,
	sustain:     20 * time.Millisecond,
	tails:       1,
	tailFor:     40 * time.Millisecond,
	entries:     []int{100, 1000},
	logs:        []int{10, 100},
	population:  50,
	life:        4 * time.Second,
	sessions:    []int{100, 1000},
}

// Every candidate checks what it measures, so that a figure is never one of
// something that failed.
func TestEverySubjectCanBeMeasured(t *testing.T) {
	r := newReport(time.Now())
	for _, s := range subjects {
		b := &bench{ctx: t.Context(), dir: t.TempDir(), sizes: tiny, progress: &progress{}}
		rows, err := s.measure(b)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		r.add(s.name, rows)
	}
	for _, w := range r.Rows {
		// With few entries the heap may not seem to grow at all, and in a short
		// while nothing may be collected.
		idle := w.Unit == bytesEach || strings.HasSuffix(w.What, "share of CPU time")
		if !idle && !(w.Ours > 0 && w.Theirs > 0 && w.Ratio > 0) {
			t.Errorf("%s, %s: got %v, %v, %v, want figures above zero", w.Subject, w.What, w.Ours, w.Theirs, w.Ratio)
		}
	}
}

func TestReport(t *testing.T) {
	r := newReport(time.Unix(0, 0))
	slow := times("slow", seconds, []float64{3e-6}, "floor", []float64{1e-6}, bound{Most: 1.5})
	quick := faster("quick", []float64{2e-9}, "peer", []float64{400e-9}, bound{Least: 3})
	r.add("subject", []row{slow, quick, times("plain", perSecond, []float64{1234567}, "peer", []float64{1e6}, bound{})})
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{
		"slow          3.0 µs  floor               1.0 µs  3.00×  ≤ 1.50  missed\n",
		"quick           2 ns  peer                400 ns   200×  ≥ 3.00  met\n",
		"plain    1,234,567/s  peer           1,000,000/s  1.23×\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant it to contain %q", &out, want)
		}
	}
	file := filepath.Join(t.TempDir(), "results", "latest.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var read report
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if len(read.Rows) != 3 || *read.Rows[0].Met || !*read.Rows[1].Met || read.Rows[2].Met != nil {
		t.Errorf("got %s, want three rows: missed, met, and without a target", text)
	}
}

// The plot is one that a browser draws, with every figure in words.
func TestPlot(t *testing.T) {
	points := []point{
		{Clients: 10, Confirmed: .8e-3, Floor: .5e-3, NATS: .9e-3},
		{Clients: 1000, Confirmed: 23e-3, Floor: 21e-3, NATS: 35e-3},
		{Clients: 10, TLS: true, Confirmed: 1.2e-3, Floor: 1e-3, NATS: 1.3e-3},
	}
	var out bytes.Buffer
	if err := plot(&out, points, "a machine"); err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(out.Bytes(), new(struct{})); err != nil {
		t.Errorf("got %v, want an XML document", err)
	}
	for _, want := range []string{">a machine<", ">plain<", ">over TLS<", ">0.8 ms<", ">23 ms<", ">35 ms<", ">1.3 ms<", ">1,000<"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got a plot without %q", want)
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Error("got a place that is not a number")
	}
}

func TestSubjectsAreChosenByName(t *testing.T) {
	if got, err := choose("fanout,verify"); err != nil || len(got) != 2 || got[0].name != "fanout" {
		t.Errorf("got %v, %v, want fanout and verify", got, err)
	}
	if _, err := choose("speed"); err == nil {
		t.Error("got no error for a subject that is not there")
	}
}

// A ratio that got worse is found, whichever way is better, and noise is not.
func TestWorseRatiosAreFound(t *testing.T) {
	of := func(speed, time, rate float64) *report {
		r := new(report)
		r.add("s", []row{
			{What: "speed", Ratio: speed, Higher: true},
			{What: "time", Ratio: time},
			{What: "rate", Ratio: rate, Higher: true},
		})
		return r
	}
	before := of(3, 1.1, 4)
	if got := of(2.1, 1.6, 2.7).worse(before); len(got) != 0 {
		t.Errorf("got %q, want nothing: it is within %v", got, worst)
	}
	if got := of(1.9, 1.7, 2.6).worse(before); len(got) != 3 {
		t.Errorf("got %q, want all three", got)
	}
	if got := new(report).worse(before); len(got) != 0 {
		t.Errorf("got %q of a run that measured nothing", got)
	}
}

func TestChartsAreDocuments(t *testing.T) {
	r := newReport(time.Unix(0, 0))
	w := times("uncached", seconds, []float64{3e-6}, "golang-jwt", []float64{1e-4}, bound{})
	r.add("verify", []row{w, w})
	all := r.charts("a machine")
	if len(all) != 1 {
		t.Fatalf("got %d charts of one subject", len(all))
	}
	var out bytes.Buffer
	if err := all["verify.svg"].draw(&out); err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(out.Bytes(), new(struct{})); err != nil {
		t.Errorf("got %v, want an XML document", err)
	}
	for _, want := range []string{">uncached<", ">golang-jwt<", ">3.0 µs<", ">100.0 µs<", "a machine"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got a chart without %q", want)
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Error("got a place that is not a number")
	}
}

// The table in the document is what was measured last.
func TestDocumentedTargetsAreMeasured(t *testing.T) {
	want, err := targets("results")
	if err != nil {
		t.Fatal(err)
	}
	_, got, _, err := documented()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s: the table of targets is not what the results say; a run of the benchmark writes it. Want:\n%s", document, want)
	}
}
