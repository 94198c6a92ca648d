package main

import (
	"testing"
)

// The endpoint states are those of kube-proxy's own tests of its topology.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		endpoints      []string
		cluster, local string
	}{
		"none":                        {nil, "no endpoints", "no endpoints"},
		"ready on one":                {[]string{"b:ready"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"ready on two":                {[]string{"a:ready", "b:ready"}, everybody, "a[eth0] b[eth0] | c: endpoint"},
		"unset conditions":            {[]string{"b:unset"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"publishNotReadyAddresses":    {[]string{"b:published"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"not ready":                   {[]string{"a:notready", "b:notready"}, "no endpoints", "no endpoints"},
		"dying":                       {[]string{"a:dying"}, "no endpoints", "no endpoints"},
		"not ready beside ready":      {[]string{"a:notready", "b:ready"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"draining only":               {[]string{"b:draining"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"draining beside ready there": {[]string{"b:draining", "b:ready"}, everybody, "b[eth0] | a: endpoint, c: endpoint"},
		"draining here, ready there":  {[]string{"a:draining", "b:ready"}, everybody, "b[eth0] (a[eth0]) | c: endpoint"},
		"draining here, dying there":  {[]string{"a:draining", "b:dying"}, everybody, "a[eth0] | b: endpoint, c: endpoint"},
		"on no node":                  {[]string{":ready"}, everybody, "a: endpoint, b: endpoint, c: endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, a := range []string{v4, v6} {
				s := newScene()
				web := s.get("web").endpoints(tt.endpoints...)
				if got := s.render(t, addr(a)); got != tt.cluster {
					t.Errorf("%s, Cluster: %s\nwant: %s", a, got, tt.cluster)
				}
				web.local = true
				if got := s.render(t, addr(a)); got != tt.local {
					t.Errorf("%s, Local: %s\nwant: %s", a, got, tt.local)
				}
			}
		})
	}
}

// kube-proxy serves each family by its own endpoints.
func TestEndpointsByFamily(t *testing.T) {
	t.Parallel()
	s := newScene()
	web := s.get("web")
	web.local = true
	web.backends = [families]*backends{ipv4: backendsFrom("a:ready"), ipv6: backendsFrom("b:ready")}
	if got, want := s.render(t, addr(v4)), "a[eth0] | b: endpoint, c: endpoint"; got != want {
		t.Errorf("IPv4: %s\nwant: %s", got, want)
	}
	if got, want := s.render(t, addr(v6)), "b[eth0] | a: endpoint, c: endpoint"; got != want {
		t.Errorf("IPv6: %s\nwant: %s", got, want)
	}
	web.backends[ipv6] = nil
	if got, want := s.render(t, addr(v6)), "no endpoints"; got != want {
		t.Errorf("IPv6 without endpoints: %s\nwant: %s", got, want)
	}
}

// A draining node comes after a ready one, whatever the administrator prefers.
func TestReadyGoesBeforePreference(t *testing.T) {
	t.Parallel()
	s := newScene()
	preferred(100, "name=a", "name=a")(s)
	web := s.get("web").endpoints("a:draining", "b:ready")
	web.local = true
	if got, want := s.render(t, addr(v4)), "b[eth0] (a[eth0]) | c: endpoint"; got != want {
		t.Errorf("%s\nwant: %s", got, want)
	}
}

func TestSharedAddress(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(s *scene, web, dns *service)
		want   string
	}{
		"both by Cluster":                   {func(*scene, *service, *service) {}, everybody},
		"one without endpoints":             {func(_ *scene, _, dns *service) { dns.endpoints("a:notready") }, everybody},
		"neither with endpoints":            {func(_ *scene, web, dns *service) { web.endpoints(); dns.endpoints() }, "no endpoints"},
		"one is selected, both announced":   {func(s *scene, _, _ *service) { s.config.L2Advertisements[0].ServiceSelectors = sel("name=dns") }, everybody},
		"none is selected":                  {func(s *scene, _, _ *service) { s.config.L2Advertisements[0].ServiceSelectors = sel("name=x") }, "not advertised"},
		"Local, same endpoints":             {bothLocal([]string{"a:ready", "b:ready"}, []string{"a:ready", "b:ready"}), "a[eth0] b[eth0] | c: endpoint"},
		"Local, only where both are served": {bothLocal([]string{"a:ready", "b:ready"}, []string{"b:ready", "c:ready"}), "b[eth0] | a: endpoint, c: endpoint"},
		"Local, one has no endpoints":       {bothLocal([]string{"a:ready"}, nil), "a[eth0] | b: endpoint, c: endpoint"},
		"Local beside Cluster":              {func(_ *scene, web, _ *service) { web.local = true; web.endpoints("c:ready") }, "c[eth0] | a: endpoint, b: endpoint"},
		"ready for both goes first":         {bothLocal([]string{"a:ready", "b:ready"}, []string{"a:draining", "b:ready"}), "b[eth0] (a[eth0]) | c: endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			web, dns := s.get("web"), s.service("dns", v4)
			tt.change(s, web, dns)
			if got := s.render(t, addr(v4)); got != tt.want {
				t.Errorf("%s\nwant: %s", got, tt.want)
			}
		})
	}
}

func bothLocal(web, dns []string) func(*scene, *service, *service) {
	return func(_ *scene, w, d *service) {
		w.local, d.local = true, true
		w.endpoints(web...)
		d.endpoints(dns...)
	}
}
