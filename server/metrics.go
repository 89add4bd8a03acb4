package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are what the store tells of itself, in the registry that /metrics
// shows.
type metrics struct {
	registry *prometheus.Registry
	seconds  prometheus.Histogram
	group    prometheus.Histogram
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
	}
	m.registry.MustRegister(m.seconds, m.group, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) committed(took time.Duration, transactions int) {
	m.seconds.Observe(took.Seconds())
	m.group.Observe(float64(transactions))
}
