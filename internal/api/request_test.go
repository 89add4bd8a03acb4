package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/storetest"
)

// A request of the outbox waits, is carried out, and then answers like the
// revocation that was made for it.
func TestRequestsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shared *storetest.Shared
		w := newWorldOn(t, func(s issuer.Store) issuer.Store {
			shared = storetest.Share(s)
			return shared
		})
		audit := w.admin("audit")
		if _, err := audit.Request(t.Context(), 1); !hasCode(err, client.CodeNotFound) {
			t.Errorf("a request that was never made: got %v, want not_found", err)
		}
		made := shared.Request("sub", "u_1", "asked")
		refused := shared.Request("colour", "blue", "asked")
		answer, text := w.listeners()["private"]("GET", "/v1/admin/requests/1", http.Header{"Authorization": {"Bearer " + w.keys["audit"]}}, "")
		if answer.StatusCode != http.StatusAccepted || !strings.Contains(text, `"waiting":true`) {
			t.Errorf("one that waits: got %d %s, want 202", answer.StatusCode, text)
		}
		began := time.Now()
		patient := must(client.New(client.Config{URL: "http://localhost", Key: w.keys["audit"], HTTP: &http.Client{Transport: w.private}}))(t)
		got, err := patient.WithWait(10*time.Second).Admin().Request(t.Context(), made)
		if err != nil || got.Waiting || got.Evidence == nil || !got.Evidence.Confirmation.Confirmed || time.Since(began) > 2*time.Second {
			t.Fatalf("with a wait: got %+v, %v after %v, want it confirmed within two seconds", got, err, time.Since(began))
		}
		want, err := audit.Revocation(t.Context(), got.Evidence.Revocation.Position)
		if err != nil || want.Revocation != got.Evidence.Revocation || want.Revocation.Actor != "outbox:shop" || want.Revocation.Value != "u_1" {
			t.Errorf("evidence: got %+v, want %+v, %v", got.Evidence.Revocation, want.Revocation, err)
		}
		if got, err := audit.Request(t.Context(), refused); err != nil || got.Waiting || got.Evidence != nil || got.ID != refused {
			t.Errorf("one that was refused: got %+v, %v, want no evidence", got, err)
		}
		for _, bad := range []string{"0", "x", "-1", "9223372036854775808"} {
			answer, _ := w.listeners()["private"]("GET", "/v1/admin/requests/"+bad, http.Header{"Authorization": {"Bearer " + w.keys["audit"]}}, "")
			if answer.StatusCode != http.StatusBadRequest {
				t.Errorf("request %s: got %d, want 400", bad, answer.StatusCode)
			}
		}
	})
}

// A database that lost something is an alarm that metrics show.
func TestEpochsAreCounted(t *testing.T) {
	var shared *storetest.Shared
	w := newWorldOn(t, func(s issuer.Store) issuer.Store {
		shared = storetest.Share(s)
		return shared
	})
	shared.Fork()
	if _, err := w.admin("revoke").Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: "u_1"}); !hasCode(err, client.CodeUnavailable) {
		t.Errorf("revoke on a database that lost something: got %v, want unavailable", err)
	}
	if err := w.issuer.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, text := w.listeners()["private"]("GET", "/metrics", nil, "")
	for _, want := range []string{"\nquash_epoch 2\n", "\nquash_epochs_total 1\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics does not show %q", want)
		}
	}
}

// A backup is streamed to one caller at a time, and one that breaks off is seen
// to.
func TestBackupIsStreamed(t *testing.T) {
	gate := make(chan struct{})
	begun := make(chan struct{}, 1)
	var fail error
	w := newWorld(t, func(c *api.Config) {
		c.Backup = func(_ context.Context, out io.Writer) error {
			if fail != nil && fail == io.EOF { //nolint:errorlint // the very same
				return fail
			}
			if _, err := out.Write(bytes.Repeat([]byte("quash"), 100_000)); err != nil {
				return err
			}
			begun <- struct{}{}
			<-gate
			return fail
		}
	})
	get := func() (string, error) {
		var file bytes.Buffer
		err := w.admin("backup").Backup(t.Context(), &file)
		return file.String(), err
	}
	type result struct {
		text string
		err  error
	}
	done := make(chan result)
	run := func() {
		text, err := get()
		done <- result{text, err}
	}
	go run()
	<-begun
	if _, err := get(); !hasCode(err, client.CodeBusy) {
		t.Errorf("a second backup beside the first: got %v, want busy", err)
	}
	close(gate)
	if got := <-done; got.err != nil || len(got.text) != 500_000 {
		t.Errorf("got %d octets, %v, want all", len(got.text), got.err)
	}
	noted, err := w.admin("audit").Audit(t.Context(), client.AuditQuery{Event: "backup_taken"})
	if err != nil || len(noted.Items) != 1 || noted.Items[0].Actor != "admin:the backup key" {
		t.Errorf("audit: got %+v, %v, want who took it", noted.Items, err)
	}
	fail = errors.New("disk on fire")
	go run()
	<-begun
	if got := <-done; got.err == nil {
		t.Error("a backup that broke off: got success, want an error")
	}
	fail = io.EOF
	if _, err := get(); !hasCode(err, client.CodeUnavailable) {
		t.Errorf("a backup that could not begin: got %v, want unavailable", err)
	}
}

func hasCode(err error, code client.Code) bool {
	p, ok := errors.AsType[*client.Problem](err)
	return ok && p.Code == code
}
