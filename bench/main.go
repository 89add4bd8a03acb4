// Command bench measures what Quash promises to be fast beside the bare
// operation that it cannot do without (the floor), or what people use today
// (the peer): in one run and, but for what grows, in turn, so that what the
// machine does meanwhile happens to both. The ratios are the result, each the median of the ratios in
// single rounds, so that it need not be that of the medians beside it; but for
// the fan-out, where it is that of the quantiles. The absolute figures are this
// machine's, today.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quashdev/quash/server"
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
	node    bool // of a node, in a process whose heap is as quash serve has it
}

var subjects = []subject{
	{name: "verify", measure: measureVerify},
	{name: "lookup", measure: measureLookup},
	{name: "durable", measure: measureDurable, node: true},
	{name: "fanout", measure: measureFanOut, node: true},
	{name: "request", measure: measureRequest},
	{name: "http", measure: measureHTTP},
	{name: "tail", measure: measureTail},
	{name: "growth", measure: measureGrowth},
	{name: "cache", measure: measureCache},
	{name: "restart", measure: measureRestart},
	{name: "server", measure: measureServer, node: true},
	{name: "postgres", measure: measurePostgres, node: true},
	{name: "nodes", measure: measureNodes, node: true},
	{name: "growth-sessions", measure: measureSessions, node: true},
}

// own is measured beside floors.
var own = []string{"verify", "lookup", "durable", "fanout"}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	file := flags.String("json", "", "`file` for the results, with the plots beside it; one in results brings the table in "+document+" up to date. A whole run writes results/latest.json unless told otherwise")
	only := flags.String("only", "", "comma-separated `subjects`: "+strings.Join(names(), ", ")+" (default verify, lookup, durable, fanout)")
	dir := flags.String("dir", ".", "`directory` for data, on the disk to measure")
	compare := flags.Bool("compare", false, "measure beside peers: "+strings.Join(comparison, ", ")+"; writes "+compareFile)
	quick := flags.Bool("quick", false, "a short run, whose ratios are held against those of "+compareFile)
	profile := flags.String("profile", "", "`file` for a CPU profile of the run, peers and floors in this process included; of one subject only")
	part := flags.Bool("part", false, "for the subjects of a run of several, each in a process of its own: writes the rows, and nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	stop, err := profileTo(*profile)
	if err != nil {
		return err
	}
	defer stop()
	size := full
	switch {
	case *quick:
		*only, size = cmp.Or(*only, strings.Join(short, ",")), full.quick()
	case *compare:
		*only, *file = cmp.Or(*only, strings.Join(comparison, ",")), cmp.Or(*file, compareFile)
	case *only == "":
		*only, *file = strings.Join(own, ","), cmp.Or(*file, "results/latest.json")
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, *dir, size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	result := newReport(time.Now())
	if len(chosen) == 1 {
		err = b.measure(result, chosen[0])
	} else {
		err = b.measureApart(result, chosen, *quick)
	}
	if err != nil {
		return err
	}
	if *part {
		return result.save(*file)
	}
	if *compare || len(result.Fates) > 0 {
		result.Peers = peerVersions()
	}
	result.print(out)
	if *quick {
		return result.hold(compareFile, out)
	}
	return result.publish(*file)
}

// newBench returns a run with a directory of its own in dir, which the caller
// removes.
func newBench(ctx context.Context, dir string, size sizes) (*bench, error) {
	base, err := filepath.Abs(dir) // programs are started elsewhere
	if err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(base, ".bench-*")
	return &bench{ctx: ctx, dir: data, sizes: size, progress: newProgress(os.Stderr)}, err
}

// profileTo writes a CPU profile to a file until it is stopped; none where the
// name is empty.
func profileTo(name string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the profile:", err)
		}
	}, nil
}

func (b *bench) measure(result *report, s subject) error {
	if s.node {
		defer server.FloorHeap()()
	}
	start := time.Now()
	rows, err := s.measure(b)
	b.progress.clear()
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if b.progress.out != nil {
		fmt.Fprintf(b.progress.out, "%s took %v\n", s.name, time.Since(start).Round(time.Second))
	}
	result.add(s.name, rows)
	result.FanOut, result.Fates, result.Notes = b.points, b.fates, b.notes
	return nil
}

// measureApart measures each subject in a process of its own, which no other
// has left its heap in.
func (b *bench) measureApart(result *report, chosen []subject, quick bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, s := range chosen {
		file := filepath.Join(b.dir, s.name+".json")
		cmd := exec.CommandContext(b.ctx, self, "-part", "-only", s.name, "-json", file, "-dir", b.dir, "-quick="+strconv.FormatBool(quick))
		cmd.Stderr, cmd.SysProcAttr = os.Stderr, ending(nil)
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		found, err := readReport(file)
		if err != nil {
			return err
		}
		result.Rows = append(result.Rows, found.Rows...)
		result.FanOut, result.Fates, result.Notes = append(result.FanOut, found.FanOut...), append(result.Fates, found.Fates...), append(result.Notes, found.Notes...)
	}
	return nil
}

func names() (all []string) {
	for _, s := range subjects {
		all = append(all, s.name)
	}
	return all
}

func choose(list string) ([]subject, error) {
	var chosen []subject
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(subjects, func(s subject) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("only: there is no subject %q; there are %s", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, subjects[i])
	}
	return chosen, nil
}
