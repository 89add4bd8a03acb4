package quash

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Status says how a verifier stands, for health checks and people.
type Status struct {
	Ready       bool      `json:"ready"`               // it has had a complete snapshot
	Connected   bool      `json:"connected"`           // to a node, that has said hello
	Stale       string    `json:"stale,omitempty"`     // why it refuses tokens; empty: it does not
	Issuer      string    `json:"issuer"`              // whose tokens it accepts
	Audience    string    `json:"audience"`            // what their aud must contain
	Log         string    `json:"log"`                 // id of the log that it follows
	Epoch       uint64    `json:"epoch"`               // of the log
	Position    uint64    `json:"position"`            // up to which it has applied the log
	Revocations int       `json:"revocations"`         // that live
	Keys        int       `json:"keys"`                // of the issuer
	Plaintext   bool      `json:"plaintext"`           // it speaks to the node unencrypted, as Config.Plaintext allows
	Since       time.Time `json:"since"`               // when Connected last changed
	LastHeard   time.Time `json:"last_heard,omitzero"` // when the node last answered that this verifier is in step

	LeaseSeconds float64   `json:"lease_seconds"`        // how long a lease of its node lasts; 0: it has had none
	LeaseUntil   time.Time `json:"lease_until,omitzero"` // when its lease ends, or ended
	Spells       int       `json:"spells"`               // how often it became stale

	Issuers []IssuerStatus `json:"issuers,omitempty"` // others whose tokens are accepted, as Config.Issuers has them

	TolerantRoutes   int     `json:"tolerant_routes"`   // that accept tokens for some time while it is stale; see AcceptStale
	ToleranceSeconds float64 `json:"tolerance_seconds"` // the longest such time
	AcceptedStale    uint64  `json:"accepted_stale"`    // requests that such routes accepted while it was stale

	left      time.Duration // until the lease ends
	accepting bool          // there are routes, or might be, that accept tokens
}

// IssuerStatus says how a verifier stands with another issuer than its node.
type IssuerStatus struct {
	Name    string    `json:"name"`
	Ready   bool      `json:"ready"`             // its tokens can be checked; they answer ErrNotReady else
	Keys    int       `json:"keys"`              // that it has; 0 with a secret
	Fetched time.Time `json:"fetched,omitzero"`  // when the keys at its JWKS were last fetched
	Failure string    `json:"failure,omitempty"` // why they could not be, the last time; the last good ones are in use
	Until   time.Time `json:"until,omitzero"`    // when its secret is accepted no more
}

// Status returns how the verifier stands now.
func (v *Verifier) Status() Status {
	s := Status{Plaintext: v.exposed, AcceptedStale: v.borne.Load()}
	v.follower.status(&s)
	for _, o := range v.follower.issuers() {
		s.Issuers = append(s.Issuers, o.status())
	}
	st := v.follower.state.Load()
	if st == nil {
		return s
	}
	s.Ready = true
	s.Issuer, s.Audience = st.issuer, st.audience
	s.Position, s.Revocations, s.Keys = st.set.Position(), st.set.Len(), st.keys.Len()
	return s
}

// Health returns a handler that says whether this server should get requests:
// 200 while tokens are accepted, 503 while they are not, with the [Status] in
// JSON. Where there are routes behind [AcceptStale], tokens are accepted for as
// long as on the most patient of them.
//
// It is for a readiness check. As a check of liveness it would have servers
// restarted because a node is out of reach, which mends nothing.
func (v *Verifier) Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := v.Status()
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		if !s.accepting {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(s)
	})
}

// Metrics returns a handler that answers with the verifier's metrics in the
// text format of Prometheus, version 0.0.4:
//
//	quash_verifier_ready                 1: it has had a complete snapshot
//	quash_verifier_connected             1: it is connected to a node
//	quash_verifier_stale                 1: it refuses tokens, but on routes behind AcceptStale
//	quash_verifier_stale_total           times it became stale
//	quash_verifier_lease_seconds         time left of its lease; 0: it has ended
//	quash_verifier_position              position of the log that it has applied
//	quash_verifier_revocations           revocations that live
//	quash_verifier_accepted_stale_total  requests accepted while it was stale
//	quash_verifier_issuers               other issuers whose tokens it accepts
//	quash_verifier_issuers_ready         those of them whose keys it has
//	quash_verifier_issuers_failing       those of them whose keys could not be fetched the last time
func (v *Verifier) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s := v.Status()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		for _, m := range []struct {
			name, kind, help string
			value            any
		}{
			{"ready", "gauge", "Whether the verifier has had a complete snapshot.", bit(s.Ready)},
			{"connected", "gauge", "Whether the verifier is connected to a node.", bit(s.Connected)},
			{"stale", "gauge", "Whether the verifier refuses tokens because it cannot rely on its revocations.", bit(s.Stale != "")},
			{"stale_total", "counter", "Times the verifier became stale.", s.Spells},
			{"lease_seconds", "gauge", "Time left of the verifier's lease.", s.left.Seconds()},
			{"position", "gauge", "Position of the log that the verifier has applied.", s.Position},
			{"revocations", "gauge", "Revocations that live.", s.Revocations},
			{"accepted_stale_total", "counter", "Requests accepted while the verifier was stale.", s.AcceptedStale},
			{"issuers", "gauge", "Other issuers whose tokens the verifier accepts.", len(s.Issuers)},
			{"issuers_ready", "gauge", "Other issuers whose keys the verifier has.", s.issuers(func(i IssuerStatus) bool { return i.Ready })},
			{"issuers_failing", "gauge", "Other issuers whose keys could not be fetched the last time.", s.issuers(func(i IssuerStatus) bool { return i.Failure != "" })},
		} {
			fmt.Fprintf(w, "# HELP quash_verifier_%[1]s %[2]s\n# TYPE quash_verifier_%[1]s %[3]s\nquash_verifier_%[1]s %[4]v\n", m.name, m.help, m.kind, m.value)
		}
	})
}

// issuers counts those of which a statement is true.
func (s *Status) issuers(holds func(IssuerStatus) bool) (n int) {
	for _, i := range s.Issuers {
		n += bit(holds(i))
	}
	return n
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
