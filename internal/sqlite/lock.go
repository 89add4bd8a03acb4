package sqlite

import "fmt"

func errHeld(path string) error {
	return fmt.Errorf("another process holds %s: stop it first, or use another data directory; SQLite serves one node", path)
}
