package quash_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/quashdev/quash"

// laws says what each package may import of this module. What is not named is
// forbidden, for the reason given.
var laws = []struct {
	from string
	may  []string
	why  string
}{
	{"", []string{"internal/feed", "internal/jws", "internal/lease", "internal/revset"}, "a resource server must not link the server"},
	{"internal/jws", nil, "signatures are judged by code that knows nothing else"},
	{"internal/revset", nil, "the set is a data structure, tested as one"},
	{"internal/feed", []string{"internal/revset"}, "the wire format is what protocol.md says and depends on no side of it"},
	{"internal/lease", nil, "leases are arithmetic, for node and verifier alike, checked as such"},
	{"internal/memnet", nil, "a listener in memory needs nothing"},
	{"internal/issuer", []string{"internal/feed", "internal/jws", "internal/revset"}, "rules know no database and no HTTP; a store depends on them, never the reverse"},
	{"internal/revlog", []string{"internal/feed", "internal/issuer", "internal/jws", "internal/lease", "internal/revset"}, "the log is followed through a narrow view of the store, whichever it is"},
	{"internal/sqlite", []string{"internal/feed", "internal/issuer", "internal/revset"}, "a store holds rows: no tokens, no HTTP"},
	{"internal/postgres", []string{"internal/feed", "internal/issuer", "internal/revset"}, "a store holds rows: no tokens, no HTTP"},
	{"internal/pgtest", nil, "a database for tests is nobody's in particular"},
	{"internal/backup", []string{"internal/feed", "internal/issuer"}, "a backup is of any store and for any"},
	{"internal/storetest", []string{"internal/backup", "internal/feed", "internal/issuer", "internal/revset"}, "what every store must do names none of them"},
	{"internal/api", []string{"", "client", "internal/feed", "internal/issuer", "internal/jws", "internal/revlog", "internal/revset"}, "handlers and stores never meet: what is in between are the rules"},
	{"client", nil, "the CLI and other people's programs have no private door"},
	{"server", []string{"", "internal/api", "internal/backup", "internal/issuer", "internal/jws", "internal/lease", "internal/memnet", "internal/postgres", "internal/revlog", "internal/sqlite"}, "wiring only"},
	{"quashtest", []string{"", "internal/feed", "internal/issuer", "internal/jws", "internal/memnet", "internal/revlog", "internal/revset"}, "other people's tests must not link a database"},
	{"chaos", nil, "faults are done to real processes, from outside"},
	{"cmd/quash", []string{"", "client", "server"}, "the binary does nothing that a program could not"},
	{"examples/", []string{"", "client", "quashtest", "server"}, "an example shows what a user can do, so it uses what a user can"},
}

// thirdParty says which packages may import something that is neither of this
// module nor of the standard library, where there is a reason to forbid it.
var thirdParty = []struct {
	from string
	may  []string
	why  string
}{
	{"", []string{"github.com/coder/websocket"}, "everything here ends up in other people's services"},
	{"internal/jws", nil, "what judges signatures is the standard library and us"},
	{"internal/revset", nil, "nothing is needed"},
	{"internal/feed", nil, "nothing is needed"},
	{"internal/lease", nil, "nothing is needed"},
	{"client", nil, "it ends up in other people's programs"},
}

type goPackage struct {
	ImportPath   string
	Doc          string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Name,Imports,TestImports,XTestImports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within returns a package's path inside the module.
func within(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := within(p.ImportPath)
		at := slices.IndexFunc(laws, func(l struct {
			from string
			may  []string
			why  string
		},
		) bool {
			return l.from == from || strings.HasSuffix(l.from, "/") && strings.HasPrefix(from, l.from)
		})
		if at < 0 {
			t.Errorf("package %s has no law: say in this test what it may import, and why no more", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			to, ours := within(imported)
			if ours && !slices.Contains(laws[at].may, to) {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, laws[at].why)
			}
		}
	}
}

func TestFewDependencies(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := within(p.ImportPath)
		for _, law := range thirdParty {
			if law.from != from {
				continue
			}
			for _, imported := range p.Imports {
				_, ours := within(imported)
				first, _, _ := strings.Cut(imported, "/")
				if !ours && strings.Contains(first, ".") && !slices.Contains(law.may, imported) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imported, law.why)
				}
			}
		}
	}
}

// TestTestLibrariesStayInTests keeps assertion and test libraries out of what
// users link.
func TestTestLibrariesStayInTests(t *testing.T) {
	forbidden := []string{"testing", "github.com/google/go-cmp/cmp", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/getkin/kin-openapi/openapi3"}
	for _, p := range packages(t) {
		if name, _ := within(p.ImportPath); slices.Contains([]string{"quashtest", "internal/storetest", "internal/pgtest"}, name) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(forbidden, imported) {
				t.Errorf("%s imports %s outside its tests", p.ImportPath, imported)
			}
		}
	}
}

// TestSurfaceIsSmall counts what package quash exports: types, functions,
// methods, constants and variables. Each is documented.
func TestSurfaceIsSmall(t *testing.T) {
	const most = 40
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	export := func(name string, docs ...*ast.CommentGroup) {
		if !ast.IsExported(name) {
			return
		}
		names = append(names, name)
		if !slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d.Text() != "" }) {
			t.Errorf("%s is not documented", name)
		}
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || ast.IsExported(receiver(d)) {
					export(d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						export(s.Name.Name, d.Doc, s.Doc)
					case *ast.ValueSpec:
						for _, n := range s.Names {
							export(n.Name, s.Doc, d.Doc)
						}
					}
				}
			}
		}
	}
	if len(names) == 0 || len(names) > most {
		t.Errorf("package quash exports %d names, want at most %d: %q", len(names), most, names)
	}
}

func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

func TestEveryPackageIsDocumented(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("package %s has no doc comment", p.ImportPath)
		}
	}
}
