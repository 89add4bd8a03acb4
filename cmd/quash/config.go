package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/quashdev/quash/server"
)

const (
	defaultData    = "quash-data"
	defaultPublic  = "127.0.0.1:8080"
	defaultPrivate = "127.0.0.1:8081"
)

// settings are what serve can be told, by flag, environment or file.
type settings struct {
	flags *pflag.FlagSet // one for each setting; its name is the setting's

	config       server.Config
	proxies      []string
	secretFile   string
	previousFile string
	logFormat    string
	logLevel     string
}

func newSettings() *settings {
	s := &settings{flags: pflag.NewFlagSet("serve", pflag.ContinueOnError)}
	f, c := s.flags, &s.config
	f.StringVar(&c.Data, "data", defaultData, "directory of the embedded database, the secret and the first admin key")
	f.StringVar(&c.Store, "store", "", "postgres:// URL of a database that several nodes share (default: the embedded SQLite in --data)")
	f.StringVar(&c.Public, "public", defaultPublic, "address for users; empty: none")
	f.StringVar(&c.Private, "private", defaultPrivate, "address for verifiers, administration and metrics; empty: none")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate, a PEM file; a new one is taken up without a restart")
	f.StringVar(&c.TLSKey, "tls-key", "", "key of the certificate, a PEM file")
	f.StringVar(&c.Issuer, "issuer", "", "iss of every token (default: the URL of --public)")
	f.StringSliceVar(&c.Audience, "audience", nil, "aud of every token; can be repeated (default: the issuer)")
	f.StringVar(&c.Algorithm, "algorithm", "ES256", "of signing keys: ES256, Ed25519 or RS256")
	f.DurationVar(&c.TokenLifetime, "token-lifetime", 0, "of access tokens, 10s to 24h (default 5m)")
	f.DurationVar(&c.KeyLifetime, "key-lifetime", 0, "of signing keys, until the next takes its place, 24h to 8760h (default 2160h)")
	f.DurationVar(&c.IdleTimeout, "idle-timeout", 0, "ends a session that was not refreshed for so long (default 336h)")
	f.DurationVar(&c.AbsoluteTimeout, "absolute-timeout", 0, "ends a session whatever happens (default 2160h)")
	f.IntVar(&c.MaxSessions, "max-sessions", 0, "of one subject, 1 to 1000 (default 100)")
	f.IntVar(&c.MaxRevocations, "max-revocations", 0, "that may be live before logins are refused (default 10000000)")
	f.BoolVar(&c.KeepSessions, "keep-sessions", false, "when the database has lost its end; what ended there then lives again (default: everybody logs in again)")
	f.DurationVar(&c.Lease, "lease", 0, "how long a verifier that is cut off goes on accepting, 1s to 10m (default 30s)")
	f.IntVar(&c.RequestsPerSecond, "requests-per-second", 0, "of one address at the public listener (default 50)")
	f.StringSliceVar(&c.BrowserOrigins, "browser-origin", nil, "origin of pages that may log in from a browser and keep the session in a cookie, such as https://app.example; can be repeated")
	f.StringSliceVar(&s.proxies, "trusted-proxy", nil, "network whose X-Forwarded-For is believed, such as 10.0.0.0/8; can be repeated")
	f.StringVar(&s.secretFile, "secret-file", "", "file with the server's secret; QUASH_SECRET is the secret itself (default: one is made in --data)")
	f.StringVar(&s.previousFile, "previous-secret-file", "", "file with the secret before, or the one to come, while it is changed; QUASH_PREVIOUS_SECRET is it itself")
	f.StringVar(&s.logFormat, "log-format", "text", "text or json")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	return s
}

// load completes what the command line said with the environment and then the
// file, checks it all, and names every mistake.
func (s *settings) load(path string, environ []string, log io.Writer) (server.Config, error) {
	var found []setting
	var errs []error
	if path != "" {
		inFile, err := fromFile(path)
		found, errs = append(found, inFile...), append(errs, err)
	}
	for _, v := range append(found, fromEnvironment(environ)...) {
		if f := s.flags.Lookup(v.name); f == nil || !f.Changed {
			errs = append(errs, s.set(v))
		}
	}
	errs = append(errs, s.finish(environ, log))
	if err := errors.Join(errs...); err != nil {
		return server.Config{}, err
	}
	return s.config, nil
}

// setting is one that stands in a file or in the environment.
type setting struct {
	source string // what to call it in an error
	name   string
	value  any
}

func fromFile(path string) ([]setting, error) {
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	var all []setting
	for _, name := range k.Keys() {
		all = append(all, setting{path + ": " + name, name, k.Get(name)})
	}
	return all, nil
}

const prefix = "QUASH_"

// others are variables that are not settings of serve (QUASH_KEY is where the
// examples look for a verifier's key), and those that Kubernetes makes up for a service of the name "quash".
var others = regexp.MustCompile(`^QUASH_(CONFIG|SECRET|PREVIOUS_SECRET|URL|ADMIN_KEY|KEY|SERVICE_.*|PORT|PORT_.*)$`)

func fromEnvironment(environ []string) []setting {
	k := koanf.New(".")
	_ = k.Load(env.Provider("", env.Opt{ // reading a list in memory cannot fail
		Prefix:      prefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if others.MatchString(name) {
				return "", nil
			}
			return name, value
		},
	}), nil)
	var all []setting
	for _, name := range k.Keys() {
		flag := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", "-")
		all = append(all, setting{name, flag, k.Get(name)})
	}
	return all
}

// set gives a setting its value, as its flag would.
func (s *settings) set(v setting) error {
	f := s.flags.Lookup(v.name)
	if f == nil && (v.name == "secret" || v.name == "previous-secret") {
		return fmt.Errorf("%s: the secret does not belong here; set %s-file, or %s%s", v.source, v.name, prefix, strings.ToUpper(strings.ReplaceAll(v.name, "-", "_")))
	}
	if f == nil {
		return fmt.Errorf("%s: there is no such setting; quash serve --help lists them", v.source)
	}
	list, many := f.Value.(pflag.SliceValue)
	values, ok := texts(v.value)
	if !ok || !many && len(values) != 1 {
		return fmt.Errorf("%s: want one value", v.source)
	}
	var err error
	if _, written := v.value.([]any); many && written {
		err = list.Replace(values)
	} else {
		if many {
			_ = list.Replace(nil)
		}
		err = f.Value.Set(values[0])
	}
	if err != nil {
		return fmt.Errorf("%s: %q is no %s", v.source, values[0], kinds[f.Value.Type()])
	}
	return nil
}

// kinds says in words what the values of flags are that can be malformed.
var kinds = map[string]string{"int": "whole number", "duration": "duration, such as 90s or 336h"}

// texts returns a scalar, or the members of a list of scalars, as text.
func texts(value any) ([]string, bool) {
	switch v := value.(type) {
	case nil, map[string]any:
		return nil, false
	case []any:
		var all []string
		for _, member := range v {
			one, ok := texts(member)
			if !ok || len(one) != 1 {
				return nil, false
			}
			all = append(all, one...)
		}
		return all, true
	}
	return []string{fmt.Sprint(value)}, true
}

// finish makes the fields that are not simply a setting, and checks the whole.
func (s *settings) finish(environ []string, log io.Writer) error {
	var errs []error
	for _, text := range s.proxies {
		proxy, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("trusted-proxy %q: want a network, such as 10.0.0.0/8", text))
		}
		s.config.TrustedProxies = append(s.config.TrustedProxies, proxy)
	}
	var err error
	s.config.Secret, err = secret(environ, "QUASH_SECRET", s.secretFile)
	errs = append(errs, err)
	s.config.PreviousSecret, err = secret(environ, "QUASH_PREVIOUS_SECRET", s.previousFile)
	errs = append(errs, err)
	s.config.Logger, err = s.logger(log)
	errs = append(errs, err)
	checked := s.config
	if checked.Issuer == "" && checked.Public == "" {
		errs = append(errs, errors.New("without --public give --issuer"))
		checked.Issuer = "reported"
	}
	return errors.Join(append(errs, checked.Validate())...)
}

// secret reads one that a variable holds, or a file.
func secret(environ []string, variable, file string) ([]byte, error) {
	given := (&program{environ: environ}).env(variable, "")
	switch {
	case given != "" && file != "":
		return nil, fmt.Errorf("secret: want %s or a file, not both", variable)
	case given != "":
		return server.ParseSecret(given)
	case file == "":
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return server.ParseSecret(string(text))
}

func (s *settings) logger(out io.Writer) (*slog.Logger, error) {
	var errs []error
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		errs = append(errs, fmt.Errorf("log-level %q: want debug, info, warn or error", s.logLevel))
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(out, options)
	switch s.logFormat {
	case "text":
	case "json":
		handler = slog.NewJSONHandler(out, options)
	default:
		errs = append(errs, fmt.Errorf("log-format %q: want text or json", s.logFormat))
	}
	return slog.New(handler), errors.Join(errs...)
}
