// Mutants leaves rules of the protocol out, one at a time, and lets the
// simulation find what breaks:
//
//	go run ./testdata/simulation/mutants [-seeds n] [name ...]
//
// Each text file beside this program is a mutant. Its first line says which
// rule is left out; then come, for each file that is changed, a line with its
// path, and replacements:
//
//	-- internal/lease/book.go --
//	<<<<
//	what is there
//	====
//	what takes its place
//	>>>>
//
// The tree stays as it is: the compiler is given the changed files as an
// overlay.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var seeds = flag.Int("seeds", 2000, "play at most as many simulations of each mutant")

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(only []string) error {
	files, err := filepath.Glob("testdata/simulation/mutants/*.txt")
	if err != nil || len(files) == 0 {
		return errors.Join(err, errors.New("none found: run this from the root of the module"))
	}
	missed := 0
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		found, err := try(f, name)
		if err != nil {
			fmt.Printf("%-28s cannot be tried: %v\n", name, err)
		}
		if !found {
			missed++
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d not found", missed)
	}
	return nil
}

// try builds a mutant and plays it.
func try(file, name string) (found bool, err error) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	overlay, err := mutate(file, dir)
	if err != nil {
		return false, err
	}
	binary := filepath.Join(dir, "mutant.test")
	build := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return false, fmt.Errorf("build: %w", err)
	}
	began := time.Now()
	out, err := exec.Command(binary, "-test.run=^TestP4Simulation$", "-test.v", "-test.timeout=20m",
		"-simulation.keep=false", "-simulation.seeds="+strconv.Itoa(*seeds)).CombinedOutput()
	found = report(name, string(out), time.Since(began))
	if !found && err != nil {
		return false, fmt.Errorf("%w\n%s", err, out)
	}
	return found, nil
}

var (
	failed = regexp.MustCompile(`simulation (\d+) failed`)
	played = regexp.MustCompile(`soak: (\d+) simulations`)
	broken = regexp.MustCompile(`FAILURE +(.{0,120})`)
)

// report prints what came of a mutant.
func report(name, out string, took time.Duration) bool {
	seed, n, how := failed.FindStringSubmatch(out), played.FindStringSubmatch(out), broken.FindStringSubmatch(out)
	took = took.Round(time.Second)
	if seed == nil || n == nil {
		fmt.Printf("%-28s NOT FOUND in %d simulations (%v)\n", name, *seeds, took)
		return false
	}
	what := "P4: the history is not linearizable"
	if how != nil {
		what = how[1]
	}
	fmt.Printf("%-28s found at seed %s, after %s simulations (%v): %s\n", name, seed[1], n[1], took, what)
	return true
}

// mutate writes the changed files and an overlay that names them.
func mutate(file, dir string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	root, err := filepath.Abs(".")
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, part := range strings.Split(string(text), "\n-- ")[1:] {
		path, changes, _ := strings.Cut(part, " --\n")
		source, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		changed, err := edit(string(source), changes)
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		to := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
		if err := os.WriteFile(to, []byte(changed), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, path)] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "overlay.json")
	return to, os.WriteFile(to, overlay, 0o600)
}

func edit(source, changes string) (string, error) {
	for _, c := range strings.Split(changes, "<<<<\n")[1:] {
		before, rest, ok1 := strings.Cut(c, "====\n")
		after, _, ok2 := strings.Cut(rest, ">>>>")
		if !ok1 || !ok2 {
			return "", errors.New("malformed replacement")
		}
		if n := strings.Count(source, before); n != 1 {
			return "", fmt.Errorf("want this once, found %d times:\n%s", n, before)
		}
		source = strings.Replace(source, before, after, 1)
	}
	return source, nil
}
