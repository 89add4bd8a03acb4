package api

import (
	"net/http"
	"time"

	"github.com/quashdev/quash/client"
)

// patient is how long a backup waits for a client that does not read.
const patient = 30 * time.Second

// steady gives an answer as long as the client goes on reading.
type steady struct{ *call }

func (w steady) Write(b []byte) (int, error) {
	_ = http.NewResponseController(w.call).SetWriteDeadline(time.Now().Add(patient))
	return w.call.Write(b)
}

// backup answers with all that the store holds, one caller at a time: as long as
// it is read, the store keeps what was deleted since. What breaks off must not be
// taken for the whole, so the connection breaks with it.
func (a *API) backup(c *call) error {
	if a.dump == nil {
		return &refusal{code: client.CodeNotFound, detail: "this server makes no backups"}
	}
	select {
	case a.dumping <- struct{}{}:
		defer func() { <-a.dumping }()
	default:
		return &refusal{code: client.CodeBusy, detail: "another backup is being made; try again when it is done", retry: patient}
	}
	if err := a.issuer.NoteBackup(c.r.Context(), c.actor); err != nil {
		return err
	}
	c.Header().Set("Content-Type", "application/gzip")
	c.Header().Set("Content-Disposition", `attachment; filename="quash.backup"`)
	err := a.dump(c.r.Context(), steady{c})
	if err != nil && c.status != 0 {
		c.cause = err
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		c.Header().Del("Content-Disposition")
	}
	return err
}
