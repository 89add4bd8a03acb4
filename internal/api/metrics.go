package api

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quashdev/quash/internal/issuer"
)

func newHistogram() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "quash_http_request_seconds",
		Help:    "Time from the first line of a request to the end of its answer; the feed's are not counted.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"route", "status"})
}

// What is read from the log and the issuer when metrics are asked for.
var (
	descPosition  = prometheus.NewDesc("quash_log_position", "Position that the node has read the log up to.", nil, nil)
	descStore     = prometheus.NewDesc("quash_store_position", "Position that the log in the store goes up to; the feed stands still where quash_log_position stays below.", nil, nil)
	descLive      = prometheus.NewDesc("quash_live_revocations", "Revocations in force.", nil, nil)
	descVerifiers = prometheus.NewDesc("quash_verifiers", "Connections of verifiers.", nil, nil)
	descLag       = prometheus.NewDesc("quash_verifier_lag_positions", "How far a verifier is behind the node.", []string{"name", "process"}, nil)
	descHeard     = prometheus.NewDesc("quash_verifier_heard_seconds", "Time since a verifier was last heard of.", []string{"name", "process"}, nil)
	descFrames    = prometheus.NewDesc("quash_feed_frames_total", "Frames of records, each sent to every verifier.", nil, nil)
	descBytes     = prometheus.NewDesc("quash_feed_bytes_total", "Octets written to verifiers.", nil, nil)
	descResumes   = prometheus.NewDesc("quash_feed_resumes_total", "Connections that went on from their position.", nil, nil)
	descSnapshots = prometheus.NewDesc("quash_feed_snapshots_total", "Connections that got a snapshot.", nil, nil)
	descSlow      = prometheus.NewDesc("quash_feed_slow_total", "Connections ended because they did not read.", nil, nil)
	descLost      = prometheus.NewDesc("quash_leases_lost_total", "Leases of verifiers that ended without having been given back.", nil, nil)
	descLease     = prometheus.NewDesc("quash_verifier_lease_seconds", "What is left of a verifier's lease; at 0 it refuses tokens.", []string{"name", "process"}, nil)
	descStale     = prometheus.NewDesc("quash_verifier_stale_routes", "Routes of a verifier that accept tokens when it is stale.", []string{"name", "process"}, nil)
	descEpoch     = prometheus.NewDesc("quash_epoch", "Epoch of the log.", nil, nil)
	descEpochs    = prometheus.NewDesc("quash_epochs_total", "Epochs that this node began because the database had lost what was read from it. Each is an alarm.", nil, nil)
	descHashes    = prometheus.NewDesc("quash_password_hashes_total", "Passwords hashed or checked.", nil, nil)
)

// collector reads the state of an API.
type collector struct{ *API }

// Describe implements [prometheus.Collector].
func (c collector) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, out) }

// Collect implements [prometheus.Collector].
func (c collector) Collect(out chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	head, stats := c.log.Head().Position, c.log.Stats()
	send(descPosition, gauge, float64(head))
	if l, err := c.stored(); err == nil {
		send(descStore, gauge, float64(l.Head.Position))
		send(descEpoch, gauge, float64(l.Epoch))
	}
	send(descEpochs, counter, float64(c.issuer.Epochs()))
	send(descLive, gauge, float64(c.log.Live()))
	send(descVerifiers, gauge, float64(stats.Connections))
	send(descFrames, counter, float64(stats.Frames))
	send(descBytes, counter, float64(stats.Bytes))
	send(descResumes, counter, float64(stats.Resumes))
	send(descSnapshots, counter, float64(stats.Snapshots))
	send(descSlow, counter, float64(stats.Slow))
	send(descLost, counter, float64(stats.Lost))
	send(descHashes, counter, float64(c.issuer.PasswordHashes()))
	seen := map[[2]string]bool{} // two keys may present one process
	for _, v := range c.log.Verifiers() {
		if id := [2]string{v.Name, v.Process}; !seen[id] {
			seen[id] = true
			send(descLag, gauge, float64(lag(head, v.Applied)), v.Name, v.Process)
			send(descLease, gauge, v.Lease.Seconds(), v.Name, v.Process)
			send(descStale, gauge, float64(v.Routes), v.Name, v.Process)
			send(descHeard, gauge, time.Since(v.LastHeard).Seconds(), v.Name, v.Process)
		}
	}
}

// stored returns the log as the store has it.
func (c collector) stored() (issuer.Log, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.issuer.Log(ctx)
}

func (a *API) metrics(c *call) error {
	promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}).ServeHTTP(c, c.r)
	return nil
}

// openAPI serves the description of the whole API.
func (a *API) openAPI(c *call) error {
	c.Header().Set("Content-Type", "application/json")
	c.Header().Set("Cache-Control", "public, max-age=60")
	c.WriteHeader(http.StatusOK)
	_, _ = c.Write(description)
	return nil
}
