package k8s

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-lb/berth/api/v1beta1"
)

// Clients reach the API server: Kubernetes' own kinds and Berth's.
type Clients struct {
	Kube             kubernetes.Interface
	IPAddressPools   *gentype.ClientWithList[*v1beta1.IPAddressPool, *v1beta1.IPAddressPoolList]
	IPReservations   *gentype.ClientWithList[*v1beta1.IPReservation, *v1beta1.IPReservationList]
	L2Advertisements *gentype.ClientWithList[*v1beta1.L2Advertisement, *v1beta1.L2AdvertisementList]

	BGPPeers          *gentype.ClientWithList[*v1beta1.BGPPeer, *v1beta1.BGPPeerList]
	BGPAdvertisements *gentype.ClientWithList[*v1beta1.BGPAdvertisement, *v1beta1.BGPAdvertisementList]
	Communities       *gentype.ClientWithList[*v1beta1.Community, *v1beta1.CommunityList]
	BFDProfiles       *gentype.ClientWithList[*v1beta1.BFDProfile, *v1beta1.BFDProfileList]
	NodeStates        *gentype.ClientWithList[*v1beta1.NodeState, *v1beta1.NodeStateList]
}

// LoadConfig reads the connection to the API server from the kubeconfig file at
// path, or from the Pod's ServiceAccount when path is empty.
func LoadConfig(path, userAgent string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("loading the configuration of the API client: %w", err)
	}
	cfg.UserAgent = userAgent
	// The API server's own priority and fairness decides who waits; a limit on
	// this side only adds latency to bursts.
	cfg.QPS = -1
	return cfg, nil
}

// NewClients returns clients for the API server that cfg names.
func NewClients(cfg *rest.Config) (*Clients, error) {
	kubeConfig := rest.CopyConfig(cfg)
	kubeConfig.ContentType = runtime.ContentTypeProtobuf
	kubeConfig.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	kube, err := kubernetes.NewForConfig(kubeConfig)
	if err != nil {
		return nil, fmt.Errorf("making the Kubernetes client: %w", err)
	}

	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering %s: %w", v1beta1.GroupVersion(), err)
	}
	gv := v1beta1.GroupVersion()
	crConfig := rest.CopyConfig(cfg)
	crConfig.GroupVersion = &gv
	crConfig.APIPath = "/apis"
	crConfig.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cr, err := rest.RESTClientFor(crConfig)
	if err != nil {
		return nil, fmt.Errorf("making the %s client: %w", gv, err)
	}
	codec := runtime.NewParameterCodec(scheme)
	return &Clients{
		Kube:             kube,
		IPAddressPools:   newClient[v1beta1.IPAddressPool, v1beta1.IPAddressPoolList]("ipaddresspools", cr, codec),
		IPReservations:   newClient[v1beta1.IPReservation, v1beta1.IPReservationList]("ipreservations", cr, codec),
		L2Advertisements: newClient[v1beta1.L2Advertisement, v1beta1.L2AdvertisementList]("l2advertisements", cr, codec),

		BGPPeers:          newClient[v1beta1.BGPPeer, v1beta1.BGPPeerList]("bgppeers", cr, codec),
		BGPAdvertisements: newClient[v1beta1.BGPAdvertisement, v1beta1.BGPAdvertisementList]("bgpadvertisements", cr, codec),
		Communities:       newClient[v1beta1.Community, v1beta1.CommunityList]("communities", cr, codec),
		BFDProfiles:       newClient[v1beta1.BFDProfile, v1beta1.BFDProfileList]("bfdprofiles", cr, codec),
		NodeStates:        newClient[v1beta1.NodeState, v1beta1.NodeStateList]("nodestates", cr, codec),
	}, nil
}

// newClient returns a client for one of Berth's kinds, T with the list L.
func newClient[T, L any, PT interface {
	*T
	runtime.Object
	metav1.Object
}, PL interface {
	*L
	runtime.Object
}](resource string, cr rest.Interface, codec runtime.ParameterCodec) *gentype.ClientWithList[PT, PL] {
	return gentype.NewClientWithList(resource, cr, codec, "", func() PT { return new(T) }, func() PL { return new(L) })
}

// requestTimeout bounds a single write, so that an API server that has stopped
// answering costs a retry and not a worker.
const requestTimeout = 10 * time.Second
