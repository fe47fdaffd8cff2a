from .agreement import AgreementTables as AgreementTables
from .agreement import agreement_of as agreement_of
from .command import agree as agree
from .command import calibrate as calibrate
from .readings import Readings as Readings
from .readings import read_sides as read_sides
