package backup

import (
	"context"
	"io"
)

// Check reads a whole file as Restore does before it writes anything.
func Check(ctx context.Context, open func() (io.ReadCloser, error)) error {
	return (&restorer{ctx: ctx, open: open, options: Options{Progress: func(string, int) {}}}).check()
}
