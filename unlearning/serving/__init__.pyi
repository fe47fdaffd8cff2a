from .endpoint import Endpoint as Endpoint
from .endpoint import shared_folder as shared_folder
from .served import answers_of as answers_of
from .served import served_key as served_key
