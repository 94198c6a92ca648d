package k8s

import (
	"fmt"
	"time"

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
		Kube: kube,
		IPAddressPools: gentype.NewClientWithList(
			"ipaddresspools", cr, codec, "",
			func() *v1beta1.IPAddressPool { return &v1beta1.IPAddressPool{} },
			func() *v1beta1.IPAddressPoolList { return &v1beta1.IPAddressPoolList{} },
		),
		IPReservations: gentype.NewClientWithList(
			"ipreservations", cr, codec, "",
			func() *v1beta1.IPReservation { return &v1beta1.IPReservation{} },
			func() *v1beta1.IPReservationList { return &v1beta1.IPReservationList{} },
		),
		L2Advertisements: gentype.NewClientWithList(
			"l2advertisements", cr, codec, "",
			func() *v1beta1.L2Advertisement { return &v1beta1.L2Advertisement{} },
			func() *v1beta1.L2AdvertisementList { return &v1beta1.L2AdvertisementList{} },
		),
	}, nil
}

// requestTimeout bounds a single write, so that an API server that has stopped
// answering costs a retry and not a worker.
const requestTimeout = 10 * time.Second
