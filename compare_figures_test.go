package quash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func compareDoc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("docs/compare.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What docs/compare.md claims of requests is at most what was measured last.
func TestCompareFiguresAreMeasured(t *testing.T) {
	doc := compareDoc(t)
	for way, beside := range map[string]string{
		"denylist in Redis":                      "golang-jwt + Redis GET",
		"version number in PostgreSQL":           "golang-jwt + PostgreSQL SELECT",
		"opaque session in Redis":                "opaque session in Redis",
		"short-lived token, refresh tokens only": "golang-jwt alone",
	} {
		m := regexp.MustCompile(`(?m)^\| ` + way + ` \| \w+ \| (\d+) times as many \|$`).FindStringSubmatch(doc)
		if m == nil {
			t.Errorf("docs/compare.md does not say how many times as many requests Quash answers as %s", way)
			continue
		}
		claimed, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		measured, err := measured(figure{subject: "request", what: "requests, 64 at once", beside: beside})
		if err != nil {
			t.Fatal(err)
		}
		if claimed > measured {
			t.Errorf("docs/compare.md says %v times as many as %s, and %.4g was measured: run make bench-compare on a quiet machine, or claim less", claimed, way, measured)
		}
	}
}

// fate is a row of bench/results/restart.json.
type fate struct {
	Way       string
	Refused   float64 `json:"refused_s"`
	WhileDown string  `json:"while_down"`
	Revived   float64 `json:"revived_s"`
	LoggedOut bool    `json:"others_logged_out"`
}

// line is how docs/compare.md says it.
func (f fate) line() string {
	refused, revived, others := fmt.Sprintf("after %.0f s, when it expires", f.Refused), "no", "no"
	switch {
	case f.Refused < .1:
		refused = "in less than 0.1 s"
	case f.Refused < 1:
		refused = "in less than 1 s"
	}
	if f.Revived > 0 {
		revived = fmt.Sprintf("for %d s, until it expires", int(f.Revived))
	}
	if f.LoggedOut {
		others = "yes"
	}
	cells := "| " + strings.Join([]string{f.Way, refused, f.WhileDown, revived, others}, " | ") + " |"
	return strings.ReplaceAll(cells, "|  |", "| |")
}

// What docs/compare.md says of a crash of the store is what was found.
func TestCompareSaysWhatARestartDid(t *testing.T) {
	const file = "bench/results/restart.json"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var results struct{ Restart []fate }
	if err := json.Unmarshal(text, &results); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(results.Restart) != 7 {
		t.Errorf("%s has %d ways, want 7", file, len(results.Restart))
	}
	doc := compareDoc(t)
	for _, f := range results.Restart {
		if !strings.Contains(doc, "\n"+f.line()+"\n") {
			t.Errorf("docs/compare.md lacks what %s says:\n%s", file, f.line())
		}
	}
}
