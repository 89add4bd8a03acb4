package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/quashdev/quash/internal/postgres"
)

// metrics are what the store and the log tell of themselves, in the registry
// that /metrics shows.
type metrics struct {
	registry     *prometheus.Registry
	seconds      prometheus.Histogram
	group        prometheus.Histogram
	confirmation prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "quash_commit_seconds",
			Help:    "Time that a group of transactions took, its flush included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1},
		}),
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "quash_commit_transactions",
			Help:    "Transactions that one commit carried.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
		confirmation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "quash_confirmation_seconds",
			Help:    "Time from when the node had read revocations until each of its verifiers had confirmed them, said goodbye or lost its lease.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 15, 30, 60, 660},
		}),
	}
	m.registry.MustRegister(m.seconds, m.group, m.confirmation, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) committed(took time.Duration, transactions int) {
	m.seconds.Observe(took.Seconds())
	m.group.Observe(float64(transactions))
}

func (m *metrics) confirmed(took time.Duration) { m.confirmation.Observe(took.Seconds()) }

// pool shows the connections to a database that is reached by network.
func (m *metrics) pool(stats func() postgres.Stats) {
	gauge := func(name, help string, value func(postgres.Stats) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(stats()) }))
	}
	counter := func(name, help string, value func(postgres.Stats) float64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return value(stats()) }))
	}
	gauge("quash_database_connections", "Connections to the database that are open.", func(s postgres.Stats) float64 { return float64(s.Open) })
	gauge("quash_database_connections_in_use", "Connections to the database on which a transaction runs.", func(s postgres.Stats) float64 { return float64(s.InUse) })
	gauge("quash_database_connections_max", "Connections to the database that may be open at once.", func(s postgres.Stats) float64 { return float64(s.Max) })
	counter("quash_database_waits_total", "Transactions that had to wait for a connection.", func(s postgres.Stats) float64 { return float64(s.Waits) })
	counter("quash_database_wait_seconds_total", "Time that transactions waited for a connection.", func(s postgres.Stats) float64 { return s.Waited.Seconds() })
}
