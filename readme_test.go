package quash_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeCodeIsRun holds the README's Go to what the examples' tests run:
// each block stands word for word in a program under examples/.
func TestReadmeCodeIsRun(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs, err := filepath.Glob("examples/*/main.go")
	if err != nil || len(programs) == 0 {
		t.Fatalf("examples: %v, %v", programs, err)
	}
	var code strings.Builder
	for _, p := range programs {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if tests, _ := filepath.Glob(filepath.Join(filepath.Dir(p), "*_test.go")); len(tests) == 0 {
			t.Errorf("%s is run by no test", p)
		}
		code.Write(text)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("README.md shows no Go")
	}
	for _, b := range blocks {
		if !strings.Contains(code.String(), b[1]) {
			t.Errorf("this block of README.md stands in no example:\n%s", b[1])
		}
	}
}
