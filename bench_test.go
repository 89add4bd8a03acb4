package quash_test

import (
	"fmt"
	"testing"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// BenchmarkVerify measures a token that is seen for the first time, beside the
// bare check of its signature, and one that is known; with a million live
// revocations.
func BenchmarkVerify(b *testing.B) {
	for _, algorithm := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		n := newNode(b)
		n.key = must(jws.Generate(algorithm))
		n.hello.Keys = keySet(n.key)
		n.hello.MaxLifetime = 86400
		cold := n.config()
		cold.CacheBytes = 1
		v, p := n.open(cold)
		revokeMany(n, p, 1_000_000)
		token := n.token(nil)
		b.Run(string(algorithm)+"/signature", func(b *testing.B) {
			var t jws.Token
			if err := t.Parse(token); err != nil {
				b.Fatal(err)
			}
			public := n.key.Public()
			for b.Loop() {
				if err := public.Verify(&t); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(algorithm)+"/cold", func(b *testing.B) { verifyAll(b, v, []string{token}) })
		if algorithm != jws.Ed25519 {
			continue
		}
		warm := n.config()
		warm.CacheBytes = 256 << 20
		v, p = n.open(warm)
		revokeMany(n, p, 1_000_000)
		for _, tokens := range []int{1, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/cached-%d", algorithm, tokens), func(b *testing.B) { verifyAll(b, v, n.tokens(tokens)) })
		}
	}
}

func verifyAll(b *testing.B, v *quash.Verifier, tokens []string) {
	for _, token := range tokens {
		if _, err := v.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i == len(tokens) {
			i = 0
		}
		if _, err := v.Verify(tokens[i]); err != nil {
			b.Fatal(err)
		}
	}
}

func (n *node) tokens(count int) []string {
	list := make([]string, count)
	for i := range list {
		list[i] = n.token(claims{"jti": fmt.Sprint("t_", i), "sid": fmt.Sprint("s_", i), "sub": fmt.Sprint("u_", i)})
	}
	return list
}

// revokeMany brings count records, none of which kills a token of the test.
func revokeMany(n *node, p *peer, count int) {
	var batch []revset.Record
	for i := 1; i <= count; i++ {
		batch = append(batch, n.record(uint64(i), "sid", fmt.Sprint("gone_", i)))
		if len(batch) == 10_000 || i == count {
			p.records(batch...)
			batch = batch[:0]
		}
	}
	for applied := uint64(0); applied < uint64(count); {
		applied = <-p.acked
	}
}
