package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/quashdev/quash/server"
)

const deployed = "../../deploy/"

// documents returns those of a YAML file, and fails where a key stands twice.
func documents(t *testing.T, name string) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(deployed + name)
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document map[string]any
		err := d.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, document)
	}
}

// at follows names, and numbers for lists, down a document.
func at(t *testing.T, document any, path ...any) any {
	t.Helper()
	for i, step := range path {
		var next any
		switch v := document.(type) {
		case map[string]any:
			next = v[step.(string)]
		case []any:
			next = v[step.(int)]
		}
		if next == nil {
			t.Fatalf("there is no %v in what stands at %v", step, path[:i])
		}
		document = next
	}
	return document
}

// wantSettings has serve read what a deployment sets.
func wantSettings(t *testing.T, where string, values map[string]string) {
	t.Helper()
	var environ []string
	for name, value := range values {
		environ = append(environ, name+"="+value)
	}
	if _, err := newSettings().load("", environ, io.Discard); err != nil {
		t.Errorf("%s: quash serve refuses these settings: %v", where, err)
	}
}

func TestKubernetesManifestIsWhatTheServerNeeds(t *testing.T) {
	byKind := map[string][]map[string]any{}
	for _, d := range documents(t, "kubernetes.yaml") {
		kind, _ := d["kind"].(string)
		byKind[kind] = append(byKind[kind], d)
		if at(t, d, "apiVersion") == "" || at(t, d, "metadata", "name") == "" {
			t.Errorf("a %s without apiVersion or name", kind)
		}
	}
	pod := at(t, byKind["Deployment"][0], "spec", "template")
	container := at(t, pod, "spec", "containers", 0)

	values := map[string]string{}
	for _, e := range at(t, container, "env").([]any) {
		name, value := at(t, e, "name").(string), ""
		if v, ok := e.(map[string]any)["value"]; ok {
			value = v.(string)
		}
		switch name { // these two come from a Secret
		case "QUASH_STORE":
			value = "postgres://quash@postgres/quash"
		case "QUASH_SECRET":
			value = strings.Repeat("A", 43) + "="
		}
		values[name] = value
	}
	wantSettings(t, "kubernetes.yaml", values)

	ports := map[string]string{}
	for _, p := range at(t, container, "ports").([]any) {
		ports[at(t, p, "name").(string)] = ""
	}
	private := startPrivate(t)
	for _, probe := range []string{"readinessProbe", "livenessProbe", "startupProbe"} {
		get := at(t, container, probe, "httpGet")
		if _, known := ports[at(t, get, "port").(string)]; !known {
			t.Errorf("%s asks a port that the container does not name", probe)
		}
		w := httptest.NewRecorder()
		private.ServeHTTP(w, httptest.NewRequest("GET", at(t, get, "path").(string), nil))
		if w.Code != http.StatusOK {
			t.Errorf("%s: got %d, want 200", probe, w.Code)
		}
	}
	label := at(t, pod, "metadata", "labels", "app")
	for _, service := range byKind["Service"] {
		if at(t, service, "spec", "selector", "app") != label {
			t.Errorf("service %v selects no pod", at(t, service, "metadata", "name"))
		}
		for _, p := range at(t, service, "spec", "ports").([]any) {
			if _, known := ports[at(t, p, "targetPort").(string)]; !known {
				t.Errorf("a service leads to port %v, which the container does not name", at(t, p, "targetPort"))
			}
		}
	}
}

// startPrivate returns the private listener's handler of a server.
func startPrivate(t *testing.T) http.Handler {
	t.Helper()
	srv, err := server.Open(t.Context(), server.Config{Data: filepath.Join(t.TempDir(), "data"), Issuer: "https://login.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close(t.Context()) })
	return srv.PrivateHandler()
}

func TestComposeFileIsWhatTheServerNeeds(t *testing.T) {
	compose := documents(t, "compose.yaml")[0]
	variable := regexp.MustCompile(`\$\{(\w+):\?\}`)
	for name, service := range at(t, compose, "services").(map[string]any) {
		values := map[string]string{}
		for setting, value := range at(t, service, "environment").(map[string]any) {
			values[setting] = variable.ReplaceAllStringFunc(value.(string), func(v string) string {
				if strings.Contains(v, "SECRET") {
					return strings.Repeat("A", 43) + "="
				}
				return "password"
			})
		}
		if name != "postgres" {
			wantSettings(t, "compose.yaml, "+name, values)
		}
		for _, v := range at(t, service, "volumes").([]any) {
			volume, _, _ := strings.Cut(v.(string), ":")
			if _, declared := at(t, compose, "volumes").(map[string]any)[volume]; !declared {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
		}
	}
}

// What the file builds must run where there is nothing else: no C library, no
// shell, no user database.
func TestContainerFileBuildsWhatRunsFromScratch(t *testing.T) {
	text, err := os.ReadFile(deployed + "Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	build := regexp.MustCompile(`(?m)^RUN CGO_ENABLED=0 (go build .*) -o /quash (\S+)$`).FindStringSubmatch(string(text))
	if build == nil || !strings.Contains(string(text), "\nFROM scratch\n") {
		t.Fatal("there is no static build, or no stage from scratch")
	}
	values := map[string]string{}
	for _, v := range regexp.MustCompile(`(QUASH_\w+)=(\S+)`).FindAllStringSubmatch(string(text), -1) {
		values[v[1]] = v[2]
	}
	values["QUASH_ISSUER"] = "https://login.example" // the user's part
	wantSettings(t, "Containerfile", values)

	bin := filepath.Join(t.TempDir(), "quash")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/quash")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the binary asks for a dynamic loader, which the container has not")
	}
}
