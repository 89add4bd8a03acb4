package quash_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestStandards holds docs/standards.md and docs/threat-model.md to the tree:
// what they say is shown by a test or a vector names one that there is, each
// row says so or why not, and no adversarial case is left out.
func TestStandards(t *testing.T) {
	tree := readTests(t)
	var cases []string
	for _, name := range []string{"docs/standards.md", "docs/threat-model.md"} {
		for _, row := range rowsOf(t, name) {
			if regexp.MustCompile(`^[TRP]\d+$`).MatchString(row[0]) {
				cases = append(cases, row[0])
			}
			tree.check(t, name, row)
		}
	}
	var want []string
	for letter, count := range map[string]int{"T": 48, "R": 16, "P": 18} {
		for n := range count {
			want = append(want, fmt.Sprint(letter, n+1))
		}
	}
	slices.Sort(want)
	slices.Sort(cases)
	if !slices.Equal(cases, want) {
		t.Errorf("got the cases %v, want each once of %v", cases, want)
	}
}

// rowsOf returns the rows of a document's tables, without their heads.
func rowsOf(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	document, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var before string
	for line := range strings.Lines(string(document)) {
		if strings.HasPrefix(line, "| ") && (strings.HasPrefix(before, "| ") || strings.HasPrefix(before, "|---")) {
			cells := strings.Split(strings.Trim(line, "| \n"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
		before = line
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no tables", name)
	}
	return rows
}

// tests are what the tree has to show things by.
type tests struct {
	source map[string]string   // of each Go test, the file
	js     string              // all of js/test
	vector map[string][]string // by file: cases and ids
}

func readTests(t *testing.T) tests {
	t.Helper()
	all := tests{source: map[string]string{}, vector: map[string][]string{}}
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && slices.Contains([]string{".git", "node_modules", "build"}, entry.Name()) {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".test.ts") {
			return err
		}
		text, err := os.ReadFile(name)
		if strings.HasSuffix(name, ".ts") {
			all.js += string(text)
		}
		for _, found := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			all.source[found[1]] += string(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"tokens", "keysets", "revocations"} {
		text, err := os.ReadFile(filepath.Join("testdata", "vectors", file+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`"(?:id|case)": "([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
			all.vector[file] = append(all.vector[file], found[1])
		}
	}
	return all
}

// check looks for what the last cell of a row names.
func (all *tests) check(t *testing.T, file string, row []string) {
	t.Helper()
	last := row[len(row)-1]
	shown := 0
	for _, found := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(last, -1) {
		if named, there := all.find(found[1]); named && !there {
			t.Errorf("%s: %s: there is no %s", file, row[0], found[1])
		} else if named {
			shown++
		}
	}
	if shown == 0 && !strings.HasPrefix(last, "Not served: ") && !strings.HasPrefix(last, "Does not apply: ") {
		t.Errorf("%s: %s (%s) is shown by nothing", file, row[0], row[1])
	}
}

// find says whether the text is a name of a test or vector, and whether it is there.
func (all *tests) find(name string) (named, there bool) {
	if title, ok := strings.CutPrefix(name, "js: "); ok {
		return true, strings.Contains(all.js, "test('"+title)
	}
	if file, id, ok := strings.Cut(name, " "); ok && all.vector[file] != nil {
		return true, slices.Contains(all.vector[file], id)
	}
	if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") {
		return false, false
	}
	name, part, _ := strings.Cut(name, "/")
	source, there := all.source[name]
	return true, there && strings.Contains(source, `"`+part)
}
