package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) accountImport() *cobra.Command {
	var update bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Make the accounts that another system had", Args: arguments(1, 1),
		Long: "Make the accounts of a file, or with - of the standard input: CSV with a header, or JSON lines.\n\n" +
			"The columns are " + columnNames + ": each may be left out, but for the name or the subject.\n" +
			"A hash is bcrypt or Argon2; the next login renews it. The file can be imported again: an\n" +
			"account that is there as the file says is passed over, one that differs is refused.\n" +
			"Hashes set the passwords of accounts that have none; to change one, use quash account password.\n" +
			"With --update the last line says whether what the changes ended is confirmed; the exit status\n" +
			"is 3 where it is not yet.\n\n" +
			"  quash account import users.csv\n  psql -c '\\copy (SELECT …) TO STDOUT CSV HEADER' | quash account import -",
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("")
			if err != nil {
				return err
			}
			in := p.stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return p.importAccounts(cmd.Context(), admin, in, update)
		},
	}
	cmd.Flags().BoolVar(&update, "update", false, "change accounts that are there and differ, and end what the change ends")
	return cmd
}

// importing is an import on its way: rows are sent in batches, one after the
// other.
type importing struct {
	*program
	admin client.Admin
	start time.Time

	request   client.ImportRequest
	lines     []int // of the rows in the request
	size      int   // of the request, in octets
	passwords int   // in it that the server is to hash

	Rows    int     `json:"rows"`
	Created int     `json:"created"`
	Updated int     `json:"updated"`
	Same    int     `json:"same"`
	Refused int     `json:"refused"`
	Seconds float64 `json:"seconds"`

	Position     uint64               `json:"position,omitempty"`     // of the last revocation that updates made
	Confirmation *client.Confirmation `json:"confirmation,omitempty"` // of all of them
}

// What the server takes at once, with room for the rest of a request.
const (
	maxBatch          = 200
	maxBatchPasswords = 50
	maxBatchSize      = 60 << 10
)

func (p *program) importAccounts(ctx context.Context, admin client.Admin, in io.Reader, update bool) error {
	file, err := openAccounts(in)
	if err != nil {
		return err
	}
	im := &importing{program: p, admin: admin, start: time.Now(), request: client.ImportRequest{Update: update}}
	if err := im.all(ctx, file); err != nil {
		im.clear()
		return fmt.Errorf("after %s: %w", count(im.Rows, "row"), err)
	}
	im.clear()
	im.Seconds = time.Since(im.start).Seconds()
	return im.conclude()
}

// conclude prints what became of all rows, and whether what updates revoked is
// confirmed.
func (im *importing) conclude() error {
	err := im.print(im, func() {
		im.sayf("%s in %.1f s: %d created, %d updated, %d the same, %d refused", count(im.Rows, "row"), im.Seconds, im.Created, im.Updated, im.Same, im.Refused)
		if im.Position > 0 && im.Confirmation != nil {
			im.sayf("%s", confirmationText(*im.Confirmation, im.Position))
		}
	})
	switch {
	case err != nil:
		return err
	case im.Refused > 0:
		return fmt.Errorf("refused: %s; mend them and import the file again, which passes over what is there", count(im.Refused, "row"))
	case im.Confirmation != nil && !im.Confirmation.Confirmed:
		return errUnconfirmed
	}
	return nil
}

func (im *importing) all(ctx context.Context, file accountFile) error {
	for {
		row, line, err := file.next()
		var bad *badRow
		switch {
		case errors.Is(err, io.EOF):
			return im.send(ctx)
		case errors.As(err, &bad):
			im.Rows++
			im.refuse(line, bad.text)
		case err != nil:
			return errors.Join(im.send(ctx), err)
		default:
			if err := im.add(ctx, row, line); err != nil {
				return err
			}
		}
	}
}

// add puts a row into the request, and sends it first where it is full.
func (im *importing) add(ctx context.Context, row client.ImportedAccount, line int) error {
	text, err := json.Marshal(row)
	if err != nil {
		return err
	}
	if len(text) > maxBatchSize {
		im.Rows++
		im.refuse(line, "the row is too long")
		return nil
	}
	passwords := 0
	if row.Password != "" {
		passwords = 1
	}
	if len(im.lines) == maxBatch || im.passwords+passwords > maxBatchPasswords || im.size+len(text) > maxBatchSize {
		if err := im.send(ctx); err != nil {
			return err
		}
	}
	im.request.Accounts, im.lines = append(im.request.Accounts, row), append(im.lines, line)
	im.size, im.passwords = im.size+len(text)+1, im.passwords+passwords
	return nil
}

func (im *importing) send(ctx context.Context) error {
	if len(im.lines) == 0 {
		return nil
	}
	out, err := im.admin.ImportAccounts(ctx, im.request)
	if err != nil {
		return err
	}
	im.Rows += len(im.lines)
	im.Created, im.Updated, im.Same = im.Created+out.Created, im.Updated+out.Updated, im.Same+out.Same
	im.Position, im.Confirmation = max(im.Position, out.Position), out.Confirmation
	for _, r := range out.Refused {
		if r.Row < 0 || r.Row >= len(im.lines) {
			return errors.New("the answer is not what a Quash server sends; check the URL")
		}
		im.refuse(im.lines[r.Row], r.Detail)
	}
	im.request.Accounts, im.lines, im.size, im.passwords = im.request.Accounts[:0], im.lines[:0], 0, 0
	if terminal(im.stderr) {
		fmt.Fprintf(im.stderr, "\r\x1b[K%d rows, %.0f/s, %d refused", im.Rows, float64(im.Rows)/time.Since(im.start).Seconds(), im.Refused)
	}
	return nil
}

func (im *importing) refuse(line int, why string) {
	im.Refused++
	im.clear()
	im.complain(fmt.Errorf("line %d: %s", line, why))
}

// clear takes the line of the progress from the terminal.
func (im *importing) clear() {
	if terminal(im.stderr) {
		fmt.Fprint(im.stderr, "\r\x1b[K")
	}
}
