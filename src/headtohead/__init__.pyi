from headtohead.interop.describing import architecture as architecture
from headtohead.interop.loading import load as load

__version__: str
