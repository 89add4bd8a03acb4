// Command bench measures what Quash promises to be fast beside the bare
// operation that it cannot do without (the floor), or what people use today
// (the peer): in one run, in turn, so that what the machine does meanwhile
// happens to both. The ratios are the result, each the median of the ratios in
// single rounds, so that it need not be that of the medians beside it; but for
// the fan-out, where it is that of the quantiles. The absolute figures are this
// machine's, today.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	if _, ok := os.LookupEnv(clientsVariable); ok {
		exit(runClients(os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// subject is one of the things measured.
type subject struct {
	name    string
	measure func(*bench) ([]row, error)
}

var subjects = []subject{
	{"verify", measureVerify},
	{"lookup", measureLookup},
	{"durable", measureDurable},
	{"fanout", measureFanOut},
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	file := flags.String("json", "", "`file` for the results, with fanout.svg beside it; a whole run writes results/latest.json unless told otherwise")
	only := flags.String("only", "", "comma-separated `subjects`: verify, lookup, durable, fanout (default all)")
	dir := flags.String("dir", ".", "`directory` for data, on the disk to measure")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if *file == "" && *only == "" {
		*file = "results/latest.json"
	}
	data, err := os.MkdirTemp(*dir, ".bench-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	b := &bench{ctx: ctx, dir: data, sizes: full, progress: newProgress(os.Stderr)}
	result := newReport(time.Now())
	for _, s := range chosen {
		rows, err := s.measure(b)
		b.progress.clear()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		result.add(s.name, rows)
	}
	result.FanOut, result.Notes = b.points, b.notes
	result.print(out)
	if *file == "" {
		return nil
	}
	return result.write(*file)
}

func choose(names string) ([]subject, error) {
	if names == "" {
		return subjects, nil
	}
	var chosen []subject
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(subjects, func(s subject) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("only: there is no subject %q; there are verify, lookup, durable and fanout", name)
		}
		chosen = append(chosen, subjects[i])
	}
	return chosen, nil
}
