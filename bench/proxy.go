package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections are those over which requests come, each one after the other.
const connections = 64

// measureHTTP measures what protecting a route costs where requests come over
// HTTP: in the service, and where nginx asks it about each request.
func measureHTTP(b *bench) (rows []row, err error) {
	w, err := b.newWorld()
	if err != nil {
		return nil, err
	}
	defer w.close()
	service, address, err := serve(w)
	if err != nil {
		return nil, err
	}
	defer service.Close()
	p, err := newPrograms()
	if err != nil {
		return nil, err
	}
	defer p.close()
	proxy, err := p.nginx(address, map[string]string{"bare": "", "empty": "/empty", "quash": "/quash/empty", "jwt": "/jwt/empty"})
	if err != nil {
		return nil, err
	}
	load := func(address, path string) candidate { return b.load(address, path, w.tokens) }
	samples, err := b.alternate("http", b.long,
		load(address, "/quash/hello"), load(address, "/hello"), load(address, "/jwt/hello"),
		load(proxy, "/quash"), load(proxy, "/empty"), load(proxy, "/jwt"), load(proxy, "/bare"))
	if err != nil {
		return nil, err
	}
	const hello, asked = "net/http, a protected hello", "nginx auth_request"
	return []row{
		times(hello, perSecond, samples[0], "bare hello", samples[1], bound{Least: .9}),
		times(hello, perSecond, samples[0], "hello behind golang-jwt", samples[2], bound{}),
		times(asked, perSecond, samples[3], "answered 204 at once", samples[4], bound{Least: .85}),
		times(asked, perSecond, samples[3], "answered by golang-jwt", samples[5], bound{Least: 2}),
		times(asked, perSecond, samples[3], "nobody asked", samples[6], bound{}),
	}, nil
}

// serve answers with a hello or with nothing, to anyone, to who has a token by
// the verifier, and by golang-jwt.
func serve(w *world) (*http.Server, string, error) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") })
	empty := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux := http.NewServeMux()
	for path, h := range map[string]http.Handler{"/hello": hello, "/empty": empty} {
		mux.Handle(path, h)
		mux.Handle("/quash"+path, w.verifier.Protect(h))
		mux.Handle("/jwt"+path, protectWithGolangJWT(golangJWT(w.keys, w.signer.alg), h))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return s, l.Addr().String(), nil
}

type golangKey struct{}

func protectWithGolangJWT(read func(string) (*golangClaims, error), h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const scheme = "Bearer "
		authorization := r.Header.Get("Authorization")
		if len(authorization) < len(scheme) || authorization[:len(scheme)] != scheme {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c, err := read(authorization[len(scheme):])
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), golangKey{}, c)))
	})
}

// load returns how many requests a second are answered.
func (b *bench) load(address, path string, tokens []string) candidate {
	return func() (float64, error) {
		var over atomic.Bool
		var total atomic.Int64
		errs := make([]error, connections)
		var working sync.WaitGroup
		start := time.Now()
		for c := range connections {
			working.Go(func() {
				n, err := requests(address, path, tokens, c*len(tokens)/connections, &over)
				errs[c] = err
				total.Add(int64(n))
			})
		}
		time.Sleep(2 * b.parallel)
		over.Store(true)
		working.Wait()
		return float64(total.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
	}
}

// requests makes one request after the other over one connection until it is
// over, with as little work of its own as may be.
func requests(address, path string, tokens []string, next int, over *atomic.Bool) (n int, err error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	var request []byte
	for ; n == 0 || !over.Load(); n++ {
		next = (next + 1) % len(tokens)
		request = fmt.Appendf(request[:0], "GET %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n\r\n", path, tokens[next])
		if _, err := conn.Write(request); err != nil {
			return n, err
		}
		if err := answered(in); err != nil {
			return n, fmt.Errorf("%s: %w", path, err)
		}
	}
	return n, nil
}

// answered reads an answer that is good, and short.
func answered(in *bufio.Reader) error {
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
