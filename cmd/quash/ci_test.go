package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The workflow can only be run elsewhere, so it holds nothing but calls of make.
func TestWorkflowCallsTargetsThatThereAre(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(makefile), -1) {
		targets = append(targets, m[1])
	}
	workflow := documents(t, "../.github/workflows/ci.yml")[0]
	if got := at(t, workflow, "permissions", "contents"); got != "read" {
		t.Errorf("the workflow may %v the repository, want that it only reads", got)
	}
	if on := at(t, workflow, "on").(map[string]any); !slices.Contains([]any{"main"}, at(t, on, "push", "branches", 0)) {
		t.Errorf("it runs on %v, want every push to main", on)
	}
	var called []string
	for name, job := range at(t, workflow, "jobs").(map[string]any) {
		if at(t, job, "runs-on") == "" || at(t, job, "timeout-minutes").(int) < 1 {
			t.Errorf("job %s says not where it runs, or for how long at most", name)
		}
		for _, step := range at(t, job, "steps").([]any) {
			called = append(called, stepTargets(t, name, step.(map[string]any), targets)...)
		}
	}
	for _, want := range []string{"test", "vuln", "golangci"} {
		if !slices.Contains(called, want) {
			t.Errorf("no job calls make %s", want)
		}
	}
}

var pinnedAction = regexp.MustCompile(`^actions/[a-z-]+@v[0-9]+$`)

// stepTargets returns the targets of make that a step calls. One that calls
// none is one of GitHub's own actions.
func stepTargets(t *testing.T, job string, step map[string]any, targets []string) []string {
	t.Helper()
	command, _ := step["run"].(string)
	if command == "" {
		if uses, _ := step["uses"].(string); !pinnedAction.MatchString(uses) {
			t.Errorf("job %s uses %q, want a version of one of GitHub's own actions", job, uses)
		}
		return nil
	}
	words := strings.Fields(command)
	for _, w := range words[1:] {
		if words[0] != "make" || !slices.Contains(targets, w) {
			t.Errorf("job %s runs %q, want make and targets that the Makefile has", job, command)
		}
	}
	return words[1:]
}

func TestMoreLintersAreNamed(t *testing.T) {
	config := documents(t, "../.golangci.yaml")[0]
	linters := at(t, config, "linters")
	if at(t, config, "version") != "2" || at(t, linters, "default") != "none" || len(at(t, linters, "enable").([]any)) == 0 {
		t.Errorf("got %v, want version 2 of the format, and the linters by name", config)
	}
}
