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

// figure is one that the README claims: the words, with the number in a group,
// and the measured ratio that must bear it out.
type figure struct {
	words                 string
	subject, what, beside string
}

var figures = []figure{
	{`([\d,.]+) times as fast as golang-jwt\b`, "verify", "cached, 10,000 hot, set changed", "golang-jwt EdDSA"},
	{`([\d,.]+) times as many requests as golang-jwt with Redis\b`, "request", "requests, 64 at once", "golang-jwt + Redis GET"},
	{`([\d,.]+) times as many as with PostgreSQL\b`, "request", "requests, 64 at once", "golang-jwt + PostgreSQL SELECT"},
	{`([\d,.]+) times as many as opaque sessions in Redis\b`, "request", "requests, 64 at once", "opaque session in Redis"},
	{`([\d,.]+) of the rate of a bare handler\b`, "http", "net/http, a protected hello", "bare hello"},
}

// What the README claims of the comparison with other libraries is at most
// what was measured last.
func TestReadmeFiguresAreMeasured(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	prose := strings.Join(strings.Fields(string(readme)), " ")
	claimed := 0
	for _, f := range figures {
		for _, m := range regexp.MustCompile(f.words).FindAllStringSubmatch(prose, -1) {
			claimed++
			number, err := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
			if err != nil {
				t.Fatalf("%q: %v", m[0], err)
			}
			measured, err := measured(f)
			if err != nil {
				t.Fatal(err)
			}
			if number > measured {
				t.Errorf("README.md says %q, and %.4g was measured: run make bench-compare on a quiet machine, or claim less", m[0], measured)
			}
		}
	}
	if claimed != len(figures) {
		t.Errorf("README.md makes %d claims in words that this test knows, want %d", claimed, len(figures))
	}
}

func measured(f figure) (ratio float64, err error) {
	const file = "bench/results/compare.json"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var results struct {
		Rows []struct {
			Subject, What, Beside string
			Ratio                 float64
		}
	}
	if err := json.Unmarshal(text, &results); err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	for _, r := range results.Rows {
		if r.Subject == f.subject && r.What == f.what && r.Beside == f.beside {
			return r.Ratio, nil
		}
	}
	return 0, fmt.Errorf("%s has no row of %s: %s, beside %s", file, f.subject, f.what, f.beside)
}
