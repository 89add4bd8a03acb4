package sqlite

import (
	"errors"
	"fmt"
)

// ErrHeld says that another process has the file open.
var ErrHeld = errors.New("SQLite serves one node")

func errHeld(path string) error {
	return fmt.Errorf("another process holds %s: stop it first, or use another data directory; %w", path, ErrHeld)
}
