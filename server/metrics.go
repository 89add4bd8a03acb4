package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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
