package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// importer has quash account import read a text, over HTTP, and returns the
// exit status, the summary and the errors.
func importer(t *testing.T) func(text string, flags ...string) (status int, sum importing, stderr string) {
	t.Helper()
	srv, err := server.Open(t.Context(), server.Config{Data: filepath.Join(t.TempDir(), "data"), Issuer: "https://quash.test"})
	if err != nil {
		t.Fatal(err)
	}
	private := httptest.NewServer(srv.PrivateHandler())
	t.Cleanup(func() {
		private.Close()
		_ = srv.Close(t.Context())
	})
	environ := []string{"QUASH_URL=" + private.URL, "QUASH_ADMIN_KEY=" + srv.AdminKey()}
	return func(text string, flags ...string) (int, importing, string) {
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), append([]string{"account", "import", "-", "--json"}, flags...), strings.NewReader(text), &stdout, &stderr, environ)
		var sum importing
		if stdout.Len() > 0 {
			if err := json.Unmarshal(stdout.Bytes(), &sum); err != nil {
				t.Fatalf("%v: %s", err, &stdout)
			}
		}
		return status, sum, stderr.String()
	}
}

func TestImportOfTenThousandRows(t *testing.T) {
	imported := importer(t)
	const rows, each = 10_000, 1000
	var text strings.Builder
	text.WriteString("name,password_hash,claims\n")
	for i := range rows {
		name, hash := fmt.Sprint("user", i), "$2b$10$"+strings.Repeat("a", 53)
		if i%each == each-1 {
			hash = "5f4dcc3b5aa765d61d8327deb882cf99"
		}
		fmt.Fprintf(&text, "%s,%s,\"{\"\"tenant\"\":\"\"t%d\"\"}\"\n", name, hash, i%7)
	}
	status, sum, stderr := imported(text.String())
	if status != exitFailed || sum.Rows != rows || sum.Created != rows-rows/each || sum.Refused != rows/each {
		t.Errorf("status %d, %+v; %.200s", status, sum, stderr)
	}
	t.Logf("%.0f rows/s", float64(rows)/sum.Seconds)
	for i := each; i <= rows; i += each {
		if want := fmt.Sprintf("quash: line %d: password_hash: ", i+1); !strings.Contains(stderr, want) {
			t.Errorf("stderr lacks %q", want)
		}
	}
	again := strings.Join(strings.SplitAfter(text.String(), "\n")[:each+1], "")
	if _, sum, _ := imported(again); sum.Rows != each || sum.Same != each-1 || sum.Created != 0 {
		t.Errorf("the first thousand again: %+v", sum)
	}
}

func TestImportBoundsRows(t *testing.T) {
	imported := importer(t)
	long := strings.Repeat("x", 70_000)
	status, sum, stderr := imported(`{"name":"` + long + "\"}\n{\"name\":\"ann\"}\n" + `{"name":"` + long[:63_000] + "\"}")
	if status != exitFailed || sum.Created != 1 || sum.Refused != 2 || !strings.Contains(stderr, "line 1: the row has more than") || !strings.Contains(stderr, "line 3: the row is too long") {
		t.Errorf("JSON lines: status %d, %+v; %.300s", status, sum, stderr)
	}
	status, _, stderr = imported("name,claims\nbob,\"" + strings.Repeat(long+"\n", 10))
	if status != exitFailed || !strings.Contains(stderr, "is a quote missing?") {
		t.Errorf("a quote that does not end: status %d; %.300s", status, stderr)
	}
	if _, sum, _ := imported("\ufeffname\nbob\ncarl\n"); sum.Rows != 2 {
		t.Errorf("with a byte order mark: %+v", sum)
	}
}

func TestImportSaysWhetherUpdatesAreConfirmed(t *testing.T) {
	imported := importer(t)
	if status, sum, stderr := imported("name\nann\nbob\n"); status != exitDone || sum.Created != 2 || sum.Confirmation != nil {
		t.Errorf("status %d, %+v; %s; want nothing to confirm", status, sum, stderr)
	}
	for _, again := range []bool{false, true} {
		status, sum, stderr := imported("name,deactivated\nann,true\nbob,true\n", "--update")
		if status != exitDone || sum.Confirmation == nil || !sum.Confirmation.Confirmed || (sum.Position == 0) != again {
			t.Errorf("again %t: status %d, %+v; %s; want that it is confirmed", again, status, sum, stderr)
		}
	}
}

// Passwords are hashed by the server, a few in each request.
func TestImportOfPasswords(t *testing.T) {
	imported := importer(t)
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	for i := range maxBatchPasswords + 1 {
		if err := e.Encode(client.ImportedAccount{Name: fmt.Sprint("user", i), Password: "correct horse battery"}); err != nil {
			t.Fatal(err)
		}
	}
	if status, sum, stderr := imported(text.String()); status != exitDone || sum.Created != maxBatchPasswords+1 {
		t.Errorf("status %d, %+v; %s", status, sum, stderr)
	}
}
